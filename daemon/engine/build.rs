//! Compiles the engine's own kernels for NVIDIA's cards, where it is built for them. Enters: kernels.cu, the compiler in `NVCC`,
//! which knows for which cards. Leaves: kernels.fatbin.

use std::path::Path;
use std::process::Command;

const KERNELS: &str = "src/models/transformer/tensors/fused/kernels.cu";

fn main() {
    println!("cargo::rerun-if-changed={KERNELS}");
    println!("cargo::rerun-if-env-changed=NVCC");
    println!("cargo::rerun-if-env-changed=CALLBOX_CUDA_ARCHS");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let out = std::env::var_os("OUT_DIR").expect("cargo says where");
    let nvcc = std::env::var_os("NVCC").unwrap_or_else(|| "nvcc".into());
    let mut compile = Command::new(&nvcc);
    compile.args(["-fatbin", "-std=c++17", "-O3", "-Werror", "all-warnings", "-o"]);
    compile.arg(Path::new(&out).join("kernels.fatbin")).arg(KERNELS);
    match compile.status() {
        Ok(status) if status.success() => {}
        outcome => {
            eprintln!(
                "{} does not compile {KERNELS} ({outcome:?}): use `make engine-cuda`",
                Path::new(&nvcc).display()
            );
            std::process::exit(1);
        }
    }
}
