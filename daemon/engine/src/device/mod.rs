//! Where the models compute, and whose turn it is.
//!
//! Enters: a wish to compute, with its urgency. Leaves: permission, one at a time. Never here: a model.

mod gate;

pub use gate::{Gate, Permit, Urgency};
