//! Packs that are pulled from a registry that is a folder, and packs that are installed from archives.

mod pack;
mod pull;
