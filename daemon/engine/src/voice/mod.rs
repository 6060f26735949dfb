//! Text in; audio frames out.
