//! Conversations in; tokens out.
