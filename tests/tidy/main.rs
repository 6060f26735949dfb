//! The house rules that no compiler holds. Enters: the text of the repository; leaves: sentences that say what to do.
//! Never here: running anything.

mod documents;
mod rooms;
mod rules;
mod source;

/// Fails with every complaint at once, so that one run is enough to mend them all.
#[track_caller]
fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n\n{}\n", complaints.join("\n"));
}
