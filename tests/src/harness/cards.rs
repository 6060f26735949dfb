//! NVIDIA's cards where there are none: a stand-in for the driver's library, compiled from `tests/gpu/nvml.c`. Enters: how the
//! cards are; leaves: a library that says so.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::process::Command;

use super::speech::run;

/// Cards, and the library that tells of them.
pub struct Cards {
    dir: TempDir,
}

impl Cards {
    /// Compiles it; the cards are as these lines of `KEY=VALUE` say.
    ///
    /// # Errors
    /// If there is no compiler.
    pub async fn new(state: &str) -> anyhow::Result<Self> {
        let this = Self { dir: tempfile::tempdir()? };
        this.are(state)?;
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("gpu/nvml.c");
        let state = format!("-DSTATE=\"{}\"", this.state().display());
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", &state, "-o"]);
        run(compile.arg(this.library()).arg(source)).await?;
        Ok(this)
    }

    /// From now on they are so.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn are(&self, state: &str) -> anyhow::Result<()> {
        // Whole or not at all: it is read all the time.
        let next = self.dir.path().join("next");
        fs::write(&next, state)?;
        Ok(fs::rename(next, self.state())?)
    }

    /// What `engine.nvml` is to be.
    pub fn library(&self) -> PathBuf {
        self.dir.path().join("libnvidia-ml.so.1")
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }
}
