//! The `kubelet` binary: arguments, logging, configuration, build, run, exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context as _;
use kubelet::config::{
    self, CommandLine, Config, ConfigError, Environment, Invocation, UsageError,
};
use kubelet::errors::error_chain;
use kubelet::process::{self, LockFile, ProcessError, RootLock};
use kubelet::service::{self, Reloader, Reloads, Service, signals};
use kubelet::{agent, cli, logging};

/// Threads that run tasks: an agent that waits needs few.
const WORKER_THREADS: usize = 2;
/// Threads for mounts and other calls that block.
const BLOCKING_THREADS: usize = 4;
/// Bytes of stack a thread reserves; what is touched of it is resident. Without optimisation the generated code that
/// reads and writes API types needs many times as much.
const STACK_BYTES: usize = if cfg!(debug_assertions) {
    8 << 20
} else {
    512 << 10
};

fn main() -> ExitCode {
    // First of all: only a process of one thread may change its environment.
    let environment = service::Environment::take();
    // Before any thread has a stack: a huge page of which little is touched is resident as a whole.
    let huge_pages = process::disable_huge_pages();
    let arguments = std::env::args_os().skip(1).map(OsString::into_string);
    let arguments = match arguments.collect::<Result<Vec<_>, _>>() {
        Ok(arguments) => arguments,
        Err(argument) => {
            eprintln!("kubelet: the argument {} is not UTF-8", argument.display());
            return ExitCode::from(UsageError::EXIT_CODE);
        }
    };
    match config::parse_arguments(arguments, &cli::names()) {
        Ok(Invocation::Run(line)) => run(line, &environment, huge_pages),
        Ok(Invocation::Help) => print(&config::usage(&cli::summaries())),
        Ok(Invocation::Version { raw }) => print(&config::version(raw)),
        Ok(Invocation::Subcommand { name, arguments }) => {
            match cli::foreground(&name, &arguments) {
                Some(Ok(join)) => go_on(join, &environment, huge_pages),
                Some(Err(code)) => ExitCode::from(code),
                None => ExitCode::from(cli::run(&name, &arguments)),
            }
        }
        Err(error) => {
            let line = format!("{} (kubelet --help lists all flags)", error_chain(&error));
            let service = environment.service_without_watchdog();
            service::refuse(&service, "CommandLineRefused", &[line]);
            ExitCode::from(UsageError::EXIT_CODE)
        }
    }
}

fn warn(error: &ProcessError) {
    tracing::warn!("{}", error_chain(error));
}

fn print(text: &str) -> ExitCode {
    println!("{}", text.trim_end());
    ExitCode::SUCCESS
}

/// Goes on as the agent of a node that is joining.
fn go_on(
    join: cli::Foreground,
    environment: &service::Environment,
    huge_pages: Result<(), ProcessError>,
) -> ExitCode {
    let arguments = join.arguments().iter().cloned();
    let code = match config::parse_arguments(arguments, &[]) {
        Ok(Invocation::Run(line)) => run(line, environment, huge_pages),
        _ => ExitCode::from(UsageError::EXIT_CODE),
    };
    join.end().map_or(code, ExitCode::from)
}

fn run(
    line: CommandLine,
    environment: &service::Environment,
    huge_pages: Result<(), ProcessError>,
) -> ExitCode {
    let refuse = |lines: &[String]| {
        let service = environment.service_without_watchdog();
        service::refuse(&service, "ConfigurationRefused", lines);
        ExitCode::from(ConfigError::EXIT_CODE)
    };
    let service = match Service::of(environment) {
        Ok(service) => service,
        Err(error) => return refuse(&[error_chain(&error)]),
    };
    let host = Environment::of_host();
    let (host, loaded) = match host.and_then(|host| Ok((config::load(&line, &host)?, host))) {
        Ok((loaded, host)) => (host, loaded),
        Err(error) => return refuse(&error.lines()),
    };
    let done = run_agent(line, host, loaded, &service, huge_pages);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(reason = "AgentFailed", "{error:#}");
            service.status(&format!("ended: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run_agent(
    line: CommandLine,
    host: Environment,
    loaded: config::Loaded,
    service: &Service,
    huge_pages: Result<(), ProcessError>,
) -> anyhow::Result<()> {
    let config = loaded.config;
    let log = logging::init(&config.logging)?;
    let reloader = Reloader::new(line, host, loaded.values, log);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    huge_pages.unwrap_or_else(|error| warn(&error));
    process::raise_open_files(config.process.max_open_files).unwrap_or_else(|error| warn(&error));
    process::set_oom_score_adj(config.process.oom_score_adj).unwrap_or_else(|error| warn(&error));
    std::fs::create_dir_all(&config.paths.root).with_context(|| {
        format!(
            "cannot make the root directory {}",
            config.paths.root.display()
        )
    })?;
    let _root_lock = RootLock::acquire(&config.paths.root)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .context("cannot start the threads of the agent")?;
    let done = runtime.block_on(supervise(config, service, reloader));
    // A thread that hangs in a mount must not keep the process from ending.
    runtime.shutdown_background();
    done
}

/// Waits for the lock file where there is one, then runs the agent until a signal, or another process, ends it.
async fn supervise(config: Config, service: &Service, reloader: Reloader) -> anyhow::Result<()> {
    let stop = signals::stop()?;
    let hangups = signals::hangups()?;
    let lock = match &config.process.lock_file {
        Some(path) => {
            service.status(&format!("waiting for the lock file {}", path.display()));
            Some(LockFile::acquire(path).await?)
        }
        None => None,
    };
    let contention = match &lock {
        Some(lock) if config.process.exit_on_lock_contention => Some(lock.contention()?),
        _ => None,
    };
    let contended = async {
        match contention {
            Some(contention) => contention.happened().await,
            None => std::future::pending().await,
        }
    };
    let surroundings = agent::Surroundings {
        service: service.clone(),
        log: Some(reloader.log()),
        reloads: Some(Reloads { hangups, reloader }),
        ..agent::Surroundings::of_node()
    };
    // Cancel-safe: whichever comes first ends the process.
    tokio::select! {
        done = agent::run(config, surroundings, stop) => Ok(done?),
        looked = contended => {
            looked.context("cannot watch the lock file")?;
            anyhow::bail!("another process wants the lock file")
        }
    }
}
