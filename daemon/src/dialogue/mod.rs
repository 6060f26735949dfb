//! (room dialogue)
