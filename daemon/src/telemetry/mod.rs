//! (room telemetry)
