//! What the command lines of all programs here share: shell completions and man
//! pages, made by the program itself from what it parses, so they cannot differ.
//!
//! A program offers [`Generate`] as a hidden subcommand and calls [`Generate::write`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command, ValueEnum as _};
use clap_complete::Shell;

/// Where man pages go, below the directory that was asked for.
const MAN: &str = "man";
/// The same for completions.
const COMPLETIONS: &str = "completions";

/// The arguments of the hidden subcommand.
#[derive(Clone, Debug, Args)]
pub struct Generate {
    /// Directory to write man/*.1 and completions/* into; made where it is missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// A file or directory that cannot be written.
#[derive(Debug)]
pub struct WriteError {
    path: PathBuf,
    error: io::Error,
}

impl std::fmt::Display for WriteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (path, error) = (self.path.display(), &self.error);
        write!(f, "cannot write {path}: {error}; give another directory")
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl Generate {
    /// Writes a man page for `command` and each visible subcommand, and
    /// completions for every shell that clap knows.
    ///
    /// # Errors
    /// The directory cannot be made or written to.
    pub fn write(&self, command: Command) -> Result<(), WriteError> {
        let man = self.make(MAN)?;
        clap_mangen::generate_to(command.clone(), &man).map_err(at(&man))?;
        let completions = self.make(COMPLETIONS)?;
        let name = command.get_name().to_owned();
        let mut command = command;
        for shell in Shell::value_variants() {
            clap_complete::generate_to(*shell, &mut command, &name, &completions)
                .map_err(at(&completions))?;
        }
        Ok(())
    }

    fn make(&self, name: &str) -> Result<PathBuf, WriteError> {
        let path = self.directory.join(name);
        fs::create_dir_all(&path).map_err(at(&path))?;
        Ok(path)
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> WriteError {
    let path = path.to_owned();
    move |error| WriteError {
        path: path.clone(),
        error,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use clap::Arg;

    fn program() -> Command {
        Command::new("program")
            .about("Does something")
            .subcommand(
                Command::new("work").arg(Arg::new("speed").long("speed").help("How fast to work")),
            )
            .subcommand(Command::new("generate").hide(true))
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn every_page_and_every_shell() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("made/for/it");
        Generate {
            directory: directory.clone(),
        }
        .write(program())
        .unwrap();
        assert_eq!(
            names(&directory.join("man")),
            ["program-work.1", "program.1"]
        );
        let page = fs::read_to_string(directory.join("man/program-work.1")).unwrap();
        assert!(page.contains("How fast to work"), "{page}");
        let completions = directory.join("completions");
        assert_eq!(
            names(&completions),
            [
                "_program",
                "_program.ps1",
                "program.bash",
                "program.elv",
                "program.fish"
            ]
        );
        let bash = fs::read_to_string(completions.join("program.bash")).unwrap();
        assert!(bash.contains("--speed"), "{bash}");
    }

    #[test]
    fn a_directory_that_is_a_file_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Generate {
            directory: file.path().to_owned(),
        }
        .write(program())
        .unwrap_err();
        let path = file.path().join("man").display().to_string();
        assert!(error.to_string().contains(&path), "{error}");
    }
}
