//! Compiles the built-in component ahead of time, for the feature `precompiled`.
//!
//! `host/src/sandbox/built_in.rs` loads this machine code where it fits, and compiles the component
//! otherwise.

#[cfg(feature = "precompiled")]
#[path = "src/sandbox/engine_config.rs"]
mod engine_config;

#[cfg(not(feature = "precompiled"))]
fn main() {
    // Without this line, every change of the package would run the script.
    println!("cargo::rerun-if-changed=build.rs");
}

#[cfg(feature = "precompiled")]
fn main() {
    if let Err(error) = precompiled::write() {
        println!("cargo::error=cannot compile the component to machine code: {error:#}");
        std::process::exit(1);
    }
}

#[cfg(feature = "precompiled")]
mod precompiled {
    use std::path::Path;
    use std::{env, fs};

    use wasmtime::error::Context as _;
    use wasmtime::{Engine, Result};

    use crate::engine_config;

    const COMPONENT: &str = "../component/prebuilt/optoken.wasm";

    /// Writes the machine code of the component to `OUT_DIR`.
    pub(crate) fn write() -> Result<()> {
        println!("cargo::rerun-if-changed={COMPONENT}");
        let file = Path::new(&env::var("OUT_DIR")?).join("optoken.cwasm");
        let write = |machine_code: &[u8]| {
            fs::write(&file, machine_code).with_context(|| format!("cannot write {}", file.display()))
        };
        let target = env::var("TARGET")?;
        // The Cranelift of the build is that of the program, which has its own architecture alone.
        if env::var("CARGO_CFG_TARGET_ARCH")? != env::consts::ARCH {
            println!(
                "cargo::warning=the program compiles the component at every start: a build on {} makes no machine \
                 code for {target}. Build on the target to have it embedded",
                env::consts::ARCH
            );
            return write(&[]);
        }
        let mut config = engine_config::config();
        // Named even where it is this machine, whose processor may have more than that of the run.
        config.target(&target).with_context(|| format!("for target {target}"))?;
        if target.starts_with("x86_64-") {
            // Server processors since 2015 have these features. wasmtime refuses the machine code
            // on a processor that lacks one.
            // SAFETY: the flag adds features of the processor and switches off no check.
            #[allow(unsafe_code)]
            unsafe {
                config.cranelift_flag_enable("x86-64-v3");
            }
        }
        let component = fs::read(COMPONENT).with_context(|| format!("cannot read {COMPONENT}"))?;
        let engine = Engine::new(&config).with_context(|| format!("for target {target}"))?;
        write(&engine.precompile_component(&component)?)
    }
}
