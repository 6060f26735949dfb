//! (room models)
