//! Callbox: a telephone line answered by local models. The rooms, in the order in which audio meets them.

#![forbid(unsafe_code)]

pub mod base;

pub mod service;

pub mod sip;

pub mod media;

pub mod cache;
pub mod knowledge;

pub mod call;

pub mod dialogue;

pub mod engine;

pub mod storage;

pub mod recording;

pub mod gpu;

pub mod control;

pub mod telemetry;

pub mod models;

pub mod config;

pub mod app;
