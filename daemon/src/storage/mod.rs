//! (room storage)
