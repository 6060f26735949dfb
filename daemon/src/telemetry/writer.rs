//! The log's reader behind a bounded queue. Enters: whole lines from any thread; leaves: the same lines, in order, from
//! one thread. A full queue drops the line and counts it: a log reader that hangs never holds up a call.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait for the reader of the log.
const QUEUE: usize = 4096;

/// Where lines are put; cheap to clone.
#[derive(Clone)]
pub(super) struct LineQueue {
    lines: SyncSender<Option<Vec<u8>>>,
    dropped: Counter,
}

/// The thread behind the queue. Dropping it writes what waits.
pub(super) struct LineThread {
    lines: SyncSender<Option<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

/// `dropped` counts the lines for which there was no room.
pub(super) fn start(out: impl Write + Send + 'static, dropped: Counter) -> io::Result<(LineQueue, LineThread)> {
    let (lines, queue) = sync_channel(QUEUE);
    let thread = std::thread::Builder::new().name("log".into()).spawn(move || drain(&queue, out))?;
    let writer = LineQueue { lines: lines.clone(), dropped };
    Ok((writer, LineThread { lines, thread: Some(thread) }))
}

fn drain(queue: &Receiver<Option<Vec<u8>>>, mut out: impl Write) {
    while let Ok(Some(line)) = queue.recv() {
        // There is no place left to say that standard output is gone.
        let mut written = out.write_all(&line);
        let mut end = false;
        while let Ok(next) = queue.try_recv() {
            let Some(line) = next else {
                end = true;
                break;
            };
            written = written.and_then(|()| out.write_all(&line));
        }
        if written.and_then(|()| out.flush()).is_err() || end {
            return;
        }
    }
}

impl Drop for LineThread {
    fn drop(&mut self) {
        if self.lines.send(None).is_ok()
            && let Some(thread) = self.thread.take()
        {
            // A panic of that thread was reported by the hook already.
            drop(thread.join());
        }
    }
}

impl<'a> MakeWriter<'a> for LineQueue {
    type Writer = LineBuffer<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineBuffer { line: Vec::new(), queue: self }
    }
}

/// One line on its way into the queue.
pub(super) struct LineBuffer<'a> {
    line: Vec<u8>,
    queue: &'a LineQueue,
}

impl Write for LineBuffer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LineBuffer<'_> {
    fn drop(&mut self) {
        if self.queue.lines.try_send(Some(std::mem::take(&mut self.line))).is_err() {
            self.queue.dropped.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Condvar, Mutex};

    use super::*;

    /// A reader of the log that does not read until it is let go.
    #[derive(Clone, Default)]
    struct Stalled(Arc<Gate>);

    #[derive(Default)]
    struct Gate {
        state: Mutex<(bool, Vec<u8>)>,
        changed: Condvar,
    }

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let Gate { state, changed } = &*self.0;
            let mut state = changed.wait_while(state.lock().expect("lock"), |(open, _)| !*open).expect("lock");
            state.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_hangs_costs_lines_not_time() {
        let out = Stalled::default();
        let dropped = Counter::default();
        let (queue, thread) = start(io::BufWriter::new(out.clone()), dropped.clone()).expect("a thread");
        let put = QUEUE + 2000;
        for number in 0..put {
            writeln!(queue.make_writer(), "{number}").expect("buffered");
        }
        assert!(dropped.get() > 0, "the queue is bounded");
        *out.0.state.lock().expect("lock") = (true, Vec::new());
        out.0.changed.notify_all();
        drop(thread);
        let written = String::from_utf8(out.0.state.lock().expect("lock").1.clone()).expect("text");
        assert_eq!(written.lines().count() as u64 + dropped.get(), put as u64);
        assert!(written.lines().map(|line| line.parse::<u64>().expect("a whole line")).is_sorted());
    }
}
