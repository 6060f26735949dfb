//! Tasks without which the daemon is of no use. Enters: such a task; leaves: nothing, or the end of the process.

/// Runs a task that may end but not panic. If it does, that is a bug of ours which the log names, and the process ends: a
/// daemon that is started again takes its calls up, one that has lost its ears does not even notice.
pub fn spawn_essential(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        if tokio::spawn(task).await.is_err_and(|error| error.is_panic()) {
            std::process::abort();
        }
    });
}
