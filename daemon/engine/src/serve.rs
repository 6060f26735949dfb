//! The socket: frames in, requests to roles, events out.
