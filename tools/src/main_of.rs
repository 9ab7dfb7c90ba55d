//! What both binaries do around their work: parse, run, report in one line, give the exit code.

use std::ffi::OsString;
use std::io::{BufWriter, Write, stderr, stdout};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::error::Error;
use crate::exit::{self, Exit};

/// Parses `words` and runs `work` with standard output.
pub fn main<A: Parser>(
    words: impl IntoIterator<Item = OsString>,
    work: impl FnOnce(&A, &mut dyn Write) -> Result<Exit, Error>,
) -> ExitCode {
    let arguments = match A::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => return refuse::<A>(&error),
    };
    let mut out = BufWriter::new(anstream::AutoStream::auto(stdout()));
    let result = work(&arguments, &mut out).and_then(|exit| {
        out.flush()?;
        Ok(exit)
    });
    let exit = match result {
        Ok(exit) => exit,
        Err(error) if error.is_broken_pipe() => Exit::Fine,
        Err(error) => {
            complain::<A>(&exit::line(&error));
            Exit::of(&error)
        }
    };
    ExitCode::from(exit.code())
}

/// Help and version go to standard output; everything else is one line on standard error.
fn refuse<A: Parser>(error: &clap::Error) -> ExitCode {
    let asked = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    if asked {
        // OK because a reader that has gone needs no help text.
        drop(error.print());
        return ExitCode::from(Exit::Fine.code());
    }
    complain::<A>(&one_line(&error.render().to_string()));
    ExitCode::from(Exit::Unusable.code())
}

/// The message without usage and blank lines.
fn one_line(text: &str) -> String {
    let told = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .filter(|line| !line.is_empty());
    let told: Vec<&str> = told.collect();
    let told = told.join(" ");
    let told = told.strip_prefix("error: ").unwrap_or(&told);
    format!("{told}; --help lists what is possible")
}

fn complain<A: Parser>(line: &str) {
    let name = A::command().get_name().to_owned();
    // OK because there is nowhere left to complain about a closed standard error.
    drop(writeln!(stderr(), "{name}: {line}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usage_error_is_one_line_that_names_what_is_missing() {
        #[derive(Debug, Parser)]
        struct Probe {
            #[arg(long)]
            size: u64,
        }
        let error = Probe::try_parse_from(["probe"]).unwrap_err();
        let line = one_line(&error.render().to_string());
        assert!(line.contains("--size") && !line.contains("Usage"), "{line}");
        let parsed = Probe::try_parse_from(["probe", "--size", "5"]).unwrap();
        assert_eq!(parsed.size, 5);
    }
}
