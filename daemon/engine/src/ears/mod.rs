//! Caller audio in; speech activity and words out.
