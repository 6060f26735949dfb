//! From the queue to the collector. Enters: spans that wait; leaves: batches, tried again with growing pauses while the
//! collector is away, given up when it does not want them. Never here: a socket, a batch that grows while it waits.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Counts, Message, REFUSED, Span};

/// Spans of one batch.
const BATCH: usize = 512;

/// How long a batch waits for more.
const GATHER: Duration = Duration::from_secs(1);

/// Pauses while the collector is away: the first, which doubles, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What became of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Sent {
    /// The collector has it, but for so many spans that it did not want.
    Taken(usize),
    /// It does not want it, and will not: why, in few words.
    Refused(String),
    /// It is away, or busy.
    Away(String),
}

/// The way to a collector.
pub(super) trait Way: Send + 'static {
    /// Sends a batch, in bounded time.
    fn send(&self, spans: &[Span]) -> impl Future<Output = Sent> + Send;
}

/// Exports until nobody can queue anything any more.
pub(super) async fn export(mut queue: mpsc::Receiver<Message>, counts: Counts, way: impl Way) {
    let mut told = Told::default();
    while let Some((spans, flushes)) = gather(&mut queue).await {
        if !spans.is_empty() {
            carry(&spans, &counts, &way, &mut told).await;
        }
        for done in flushes {
            // Whoever asked may have gone.
            done.send(()).unwrap_or_default();
        }
    }
}

/// What an operator was told of the collector last; each is told once.
#[derive(Default)]
struct Told {
    away: bool,
    refused: bool,
}

/// A batch, and who waits for it.
async fn gather(queue: &mut mpsc::Receiver<Message>) -> Option<(Vec<Span>, Vec<oneshot::Sender<()>>)> {
    let (mut spans, mut flushes) = (Vec::new(), Vec::new());
    let mut next = Some(queue.recv().await?);
    let until = Instant::now() + GATHER;
    while let Some(message) = next {
        match message {
            Message::Spans(more) => spans.extend(more),
            Message::Flush(done) => flushes.push(done),
        }
        let full = spans.len() >= BATCH || !flushes.is_empty();
        next = if full { None } else { timeout_at(until, queue.recv()).await.ok().flatten() };
    }
    Some((spans, flushes))
}

async fn carry(spans: &[Span], counts: &Counts, way: &impl Way, told: &mut Told) {
    let mut pause = PAUSES.0;
    loop {
        match way.send(spans).await {
            Sent::Taken(unwanted) => {
                let unwanted = unwanted.min(spans.len());
                counts.exported.inc_by((spans.len() - unwanted) as u64);
                counts.dropped(REFUSED, unwanted);
                if std::mem::take(&mut told.away) {
                    tracing::info!("the collector of traces is back");
                }
                told.refused = false;
                return;
            }
            Sent::Refused(why) => {
                counts.dropped(REFUSED, spans.len());
                if !std::mem::replace(&mut told.refused, true) {
                    tracing::error!(why, "the collector of traces does not take spans: check telemetry.otlp");
                }
                told.away = false;
                return;
            }
            Sent::Away(why) => {
                if !std::mem::replace(&mut told.away, true) {
                    tracing::warn!(why, "the collector of traces is away; spans wait, and are dropped if it stays so");
                }
                sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::base::{CallId, SystemClock};
    use crate::telemetry::Metrics;
    use crate::telemetry::traces::{Inner, QUEUE, QUEUE_FULL, SpanId, SpanKind, Traces};

    /// Answers as it is told, then takes everything; notes when it was asked, and for how many spans.
    #[derive(Clone, Default)]
    struct Collector {
        answers: Arc<Mutex<Vec<Sent>>>,
        asked: Arc<Mutex<Vec<(Instant, usize)>>>,
    }

    impl Way for Collector {
        async fn send(&self, spans: &[Span]) -> Sent {
            self.asked.lock().expect("whole").push((Instant::now(), spans.len()));
            let mut answers = self.answers.lock().expect("whole");
            if answers.is_empty() { Sent::Taken(0) } else { answers.remove(0) }
        }
    }

    fn spans(count: usize) -> Vec<Span> {
        let call = CallId(1);
        let one = Span {
            call,
            id: SpanId::whole(call),
            parent: None,
            name: "call",
            kind: SpanKind::Server,
            times_us: (0, 1),
            attributes: Vec::new(),
            failure: None,
        };
        vec![one; count]
    }

    fn bed(answers: Vec<Sent>) -> (Traces, Counts, Collector) {
        let counts = Counts::register(&Metrics::new(Arc::new(SystemClock)));
        let collector = Collector { answers: Arc::new(Mutex::new(answers)), ..Collector::default() };
        let (queue, messages) = mpsc::channel(QUEUE);
        tokio::spawn(export(messages, counts.clone(), collector.clone()));
        (Traces(Some(Arc::new(Inner { queue, counts: counts.clone() }))), counts, collector)
    }

    fn dropped(counts: &Counts, reason: &'static str) -> u64 {
        counts.dropped.get_or_create(&[("reason", reason)]).get()
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_is_away_is_asked_less_and_less_and_loses_nothing_when_it_is_back() {
        let away = || Sent::Away("connection refused".into());
        let (traces, counts, collector) = bed(vec![away(), away(), away()]);
        traces.send(spans(3));
        traces.send(spans(4));
        sleep(Duration::from_secs(30)).await;
        let asked = collector.asked.lock().expect("whole").clone();
        let pauses: Vec<u64> = asked.windows(2).map(|two| (two[1].0 - two[0].0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4]);
        assert!(asked.iter().all(|(_, count)| *count == 7), "one batch: {asked:?}");
        assert_eq!((counts.exported.get(), dropped(&counts, QUEUE_FULL)), (7, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_no_place_or_is_not_wanted_is_dropped_and_counted_and_nobody_waits() {
        let (traces, counts, _) = bed(vec![Sent::Taken(2), Sent::Refused("400".into())]);
        traces.send(spans(5));
        traces.flush().await;
        traces.send(spans(6));
        traces.flush().await;
        assert_eq!((counts.exported.get(), dropped(&counts, REFUSED)), (3, 8));

        let (traces, counts, collector) = bed(vec![Sent::Away("refused".into()); 100]);
        let begun = Instant::now();
        for _ in 0..QUEUE + 10 {
            traces.send(spans(2));
        }
        assert_eq!((dropped(&counts, QUEUE_FULL), Instant::now() - begun), (20, Duration::ZERO));
        traces.flush().await;
        assert!(Instant::now() - begun < Duration::from_secs(3), "an end does not wait for a collector");
        assert!(collector.asked.lock().expect("whole").iter().all(|(_, count)| *count <= BATCH));
    }
}
