//! A daemon that cannot work says why in one sentence and leaves.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use callbox_tests::harness::{Daemon, Engine, Process, Setup, executable};
use tempfile::TempDir;
use tokio::process::Command;

/// Starts a daemon that must not start, after `spoil` has seen to that; returns exit code and output.
async fn refused(spoil: impl FnOnce(&Path, String) -> String) -> anyhow::Result<(i32, String)> {
    refused_with(spoil, |_| ()).await
}

/// The same with a command that is changed first.
async fn refused_with(
    spoil: impl FnOnce(&Path, String) -> String,
    change: impl FnOnce(&mut Command),
) -> anyhow::Result<(i32, String)> {
    let dir = TempDir::new()?;
    let (path, ..) = Daemon::configure(&Setup::new(Engine::Pack("tiny")), dir.path())?;
    let config = spoil(dir.path(), fs::read_to_string(&path)?);
    fs::write(&path, config)?;
    let mut command = Command::new(executable("callboxd")?);
    command.arg("--config").arg(&path);
    change(&mut command);
    let mut process = Process::start("callboxd", &mut command, &dir.path().join("log"))?;
    let status = process.ended(Duration::from_secs(20)).await?;
    ensure!(!dir.path().join("control.sock").exists(), "it left its socket behind");
    Ok((status.code().unwrap_or(-1), process.log()))
}

/// The last thing it said names what is wrong; nothing in it is a stack trace.
fn says(output: &str, words: &[&str]) -> anyhow::Result<()> {
    ensure!(!output.contains("panicked") && !output.contains("stack backtrace"), "{output}");
    let told = output.lines().any(|line| words.iter().all(|word| line.contains(word)));
    ensure!(told, "no line holds all of {words:?}:\n{output}");
    Ok(())
}

#[tokio::test]
async fn a_key_that_does_not_exist_is_named() -> anyhow::Result<()> {
    let (code, output) = refused(|_, config| config.replace("[storage]", "[storage]\nspeed = 9")).await?;
    ensure!(code == 78, "{code}: {output}");
    says(&output, &["speed"])
}

#[tokio::test]
async fn a_missing_model_is_named_with_the_command_that_brings_it() -> anyhow::Result<()> {
    let (code, output) = refused(|dir, config| {
        let empty = dir.join("empty");
        fs::create_dir(&empty).expect("a new folder");
        let models = config.lines().find(|line| line.starts_with("dir = ")).expect("models.dir").to_owned();
        config.replace(&models, &format!("dir = \"{}\"", empty.display()))
    })
    .await?;
    ensure!(code == 78, "{code}: {output}");
    says(&output, &["callbox models pull"])
}

#[tokio::test]
async fn a_missing_program_is_named_with_its_package() -> anyhow::Result<()> {
    let no_path = |command: &mut Command| {
        command.env("PATH", "/nonexistent");
    };
    let (code, output) = refused_with(|_, config| config, no_path).await?;
    ensure!(code == 78, "{code}: {output}");
    says(&output, &["install the package espeak-ng"])?;
    let (code, output) =
        refused(|_, config| config.replace("kind = \"cpu\"", "program = \"/nonexistent/callbox-engine\"")).await?;
    ensure!(code == 78, "{code}: {output}");
    says(&output, &["engine.program: /nonexistent/callbox-engine"])
}

#[tokio::test]
async fn a_port_in_use_is_named() -> anyhow::Result<()> {
    let udp = UdpSocket::bind("127.0.0.1:0")?;
    let port = udp.local_addr()?.port();
    let (code, output) = refused(|_, config| {
        let line = config.lines().find(|line| line.starts_with("udp = ")).expect("sip.udp").to_owned();
        config.replace(&line, &format!("udp = [\"127.0.0.1:{port}\"]"))
    })
    .await?;
    ensure!(code == 78, "{code}: {output}");
    says(&output, &[&port.to_string()])?;

    let tcp = TcpListener::bind("127.0.0.1:0")?;
    let port = tcp.local_addr()?.port();
    let (code, output) = refused(|_, config| {
        let line = config.lines().find(|line| line.starts_with("listen = ")).expect("http.listen").to_owned();
        config.replace(&line, &format!("listen = \"127.0.0.1:{port}\""))
    })
    .await?;
    ensure!(code == 78, "{code}: {output}");
    says(&output, &[&port.to_string()])
}

#[tokio::test]
async fn a_model_with_other_bytes_is_refused() -> anyhow::Result<()> {
    let (code, output) = refused(|dir, config| {
        let line = config.lines().find(|line| line.starts_with("dir = ")).expect("models.dir").to_owned();
        let whole = line.trim_start_matches("dir = ").trim_matches('"').to_owned();
        let spoiled = dir.join("models");
        // The same models, by reference, but for one that is cut short.
        for folder in fs::read_dir(&whole).expect("run `make models` first").flatten() {
            if folder.path().is_dir() {
                std::os::unix::fs::symlink(folder.path(), {
                    fs::create_dir_all(&spoiled).expect("a new folder");
                    spoiled.join(folder.file_name())
                })
                .expect("a new link");
            }
        }
        let vad = spoiled.join("silero-vad");
        fs::remove_file(&vad).expect("the link");
        fs::create_dir(&vad).expect("a new folder");
        fs::write(vad.join("silero_vad_16k.safetensors"), b"cut short").expect("a new file");
        config.replace(&line, &format!("dir = \"{}\"", spoiled.display()))
    })
    .await?;
    ensure!(code == 78, "{code}: {output}");
    says(&output, &["silero_vad_16k.safetensors"])
}
