//! An emulated machine by hand: `vm SYSTEM [FILE…]`, the system as `debian-12`. The files are in `/in`; each line of
//! standard input is run as root. `:reboot`, `:cut` (its power, and on again) are for the machine itself.

use std::io::BufRead as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tests::images;
use tests::vm::{Machine, System};

const COMMAND: Duration = Duration::from_secs(600);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let system = arguments.next().unwrap_or_default();
    let system = System::ALL
        .into_iter()
        .find(|known| known.to_string() == system)
        .with_context(|| {
            format!(
                "vm SYSTEM [FILE…]; systems: {:?}",
                System::ALL.map(|s| s.to_string())
            )
        })?;
    let mut files = vec![(
        "images.tar".to_owned(),
        images::archive(&tests::target_dir()?)?,
    )];
    for file in arguments {
        let file = PathBuf::from(file);
        let name = file.file_name().context("a file's name")?;
        files.push((name.to_string_lossy().into_owned(), file));
    }
    let files: Vec<_> = files
        .iter()
        .map(|(name, path)| (name.as_str(), path.as_path()))
        .collect();
    let mut machine = Machine::new(system, &files)?;
    machine.power_on()?;
    println!("the console's log is {}", machine.log().display());
    for line in std::io::stdin().lock().lines() {
        let line = line.context("read standard input")?;
        match line.trim() {
            "" => {}
            ":reboot" => machine.reboot()?,
            ":cut" => {
                machine.cut_power()?;
                machine.power_on()?;
            }
            command => {
                let output = machine.run(command, COMMAND)?;
                println!("# {command}\n{}\n[{}]", output.text, output.status);
            }
        }
    }
    Ok(())
}
