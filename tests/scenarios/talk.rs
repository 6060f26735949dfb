//! Several callers who are being told something while the engine behind it is lost: who hears nothing, for how long, and
//! whether everybody goes on afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use callbox_tests::harness::{Daemon, Rtp, eventually, say, scenario, transcribe};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::callers::{ask, meanwhile};
use crate::{PATIENCE, PAUSE};

/// Until when silence after the loss is looked for: an answer was taken up again by then.
const BRIDGE: Duration = Duration::from_secs(8);

/// Somebody who tells much, and does not ask whether the caller is still there.
pub(crate) const TALKER: &str = r#"
name = "talker"
numbers = ["*"]
persona = "You are the receptionist of a small hotel. Tell all that you know, in many sentences."
facts = ["Breakfast is served from seven to ten in the morning.", "The hotel has a garden and a swimming pool."]
greeting = "Good morning. How can I help you?"
goodbye = "Goodbye."
apology = "I am sorry, something went wrong. One moment please."
[turns]
silence_ms = 90000
[sampling]
max_tokens = 80
"#;

/// How far the callers may go.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Step {
    Answering,
    Lost,
    Another,
}

/// Callers in the middle of an answer.
pub(crate) struct Talk {
    dir: TempDir,
    step: watch::Sender<Step>,
    callers: JoinSet<anyhow::Result<(Option<Duration>, Vec<i16>)>>,
}

/// What they heard.
pub(crate) struct Told {
    /// The longest silence of each after the loss; none of whom heard no sound at all.
    pub(crate) silences: Vec<Option<Duration>>,
    /// How many heard the apology.
    pub(crate) apologies: usize,
}

impl Talk {
    /// So many callers, each of whom has asked and hears the answer.
    pub(crate) async fn begin(daemon: &Daemon, count: usize) -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let question = say("Please tell me everything that you know about the hotel.", 0.0, 0.2, dir.path()).await?;
        let (steps, step) = watch::channel(Step::Answering);
        let answering = Arc::new(AtomicUsize::new(0));
        let mut callers = JoinSet::new();
        for _ in 0..count {
            let mut rtp = Rtp::bind().await?;
            let call = scenario("call").audio_at(rtp.port()?).lasting(Duration::from_secs(60));
            let call = call.start(Daemon::USER, daemon.sip())?;
            let (question, step, answering) = (question.clone(), step.clone(), Arc::clone(&answering));
            callers.spawn(async move {
                ensure!(rtp.listen(PAUSE, PATIENCE).await?, "no greeting was heard");
                ask(&mut rtp, question.clone()).await?;
                answering.fetch_add(1, Ordering::AcqRel);
                ensure!(rtp.run(PATIENCE, |_| *step.borrow() >= Step::Lost).await?, "no engine was lost");
                let lost = Instant::now();
                // Whoever hears nothing more was told everything, and waits for nothing.
                rtp.run(BRIDGE + PAUSE, |_| false).await?;
                let silence = rtp.track().longest_silence(lost..lost + BRIDGE);
                let told = rtp.track().samples(lost);
                ensure!(rtp.run(PATIENCE, |_| *step.borrow() >= Step::Another).await?, "no other engine came");
                ask(&mut rtp, question).await?;
                meanwhile(&mut rtp, call.done(Duration::from_secs(90))).await?;
                anyhow::Ok((silence, told))
            });
        }
        let all = || async { (answering.load(Ordering::Acquire) == count).then_some(()) };
        tokio::select! {
            all = eventually("every answer", Duration::from_secs(60), all) => all?,
            Some(ended) = callers.join_next() => { ended??; }
        }
        Ok(Self { dir, step: steps, callers })
    }

    /// An engine was lost now.
    pub(crate) fn lost(&self) {
        self.step.send_replace(Step::Lost);
    }

    /// There is another one: they all ask again, and hang up.
    pub(crate) async fn end(mut self) -> anyhow::Result<Told> {
        self.step.send_replace(Step::Another);
        let (mut silences, mut apologies) = (Vec::new(), 0);
        while let Some(heard) = self.callers.join_next().await {
            let (silence, told) = heard.context("a caller ended")??;
            silences.push(silence);
            apologies += usize::from(transcribe(&told, self.dir.path()).await?.to_lowercase().contains("sorry"));
        }
        Ok(Told { silences, apologies })
    }
}
