//! The commands in a document.

/// One command of a `sh` block, with its continuations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    /// Where it begins in the document, from 1.
    pub(super) line: usize,
    /// As it is printed.
    pub(super) text: String,
    /// How it has to end.
    pub(super) exit_code: i32,
}

impl Command {
    /// Without the comment behind it, and on one line.
    pub(super) fn bare(&self) -> String {
        let text = self.text.replace("\\\n", " ");
        let comment = text.find(" #").unwrap_or(text.len());
        text[..comment].trim_end().to_owned()
    }
}

/// Every command of every `sh` block, in order.
pub(super) fn commands(document: &str) -> Vec<Command> {
    let (mut found, mut open): (Vec<Command>, Option<Command>) = (Vec::new(), None);
    let mut in_block = false;
    for (index, line) in document.lines().enumerate() {
        if line.starts_with("```") {
            in_block = line == "```sh";
            continue;
        }
        let bare = line.trim();
        if !in_block || (open.is_none() && (bare.is_empty() || bare.starts_with('#'))) {
            continue;
        }
        let command = open.get_or_insert(Command {
            line: index + 1,
            text: String::new(),
            exit_code: 0,
        });
        command.text += line;
        if line.ends_with('\\') {
            command.text.push('\n');
            continue;
        }
        let mut command = open.take().expect("just filled");
        command.exit_code = exit_code(&command.text);
        found.push(command);
    }
    found
}

/// Every command of ours within a sentence: what stands between two backticks.
pub(super) fn spans(document: &str) -> Vec<String> {
    let mut in_block = false;
    let outside = |line: &&str| {
        let fence = line.starts_with("```");
        in_block ^= fence;
        !fence && !in_block
    };
    let text: Vec<&str> = document.lines().filter(outside).collect();
    let text = text.join(" ");
    let between = text.split('`').skip(1).step_by(2);
    let ours = |span: &&str| span.starts_with("seawall ") || span.starts_with("wal-dump ");
    between.filter(ours).map(str::to_owned).collect()
}

/// What a comment `exit code N` says.
fn exit_code(text: &str) -> i32 {
    let said = text.split_once("# exit code ");
    said.map_or(0, |(_, rest)| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a number behind \"exit code\"")
    })
}

#[test]
fn commands_are_the_lines_of_sh_blocks_with_their_continuations() {
    let document =
        "a\n```sh\n# why\nb c   # d\n\ne \\\n    f\ng # exit code 3: gone\n```\n```text\nh\n```\n";
    let found = commands(document);
    let texts: Vec<&str> = found.iter().map(|c| c.text.as_str()).collect();
    assert_eq!(texts, ["b c   # d", "e \\\n    f", "g # exit code 3: gone"]);
    let places: Vec<_> = found.iter().map(|c| (c.line, c.exit_code)).collect();
    assert_eq!(places, [(4, 0), (6, 0), (8, 3)]);
    assert_eq!(found[0].bare(), "b c");
    assert_eq!(found[1].bare(), "e      f");
}

#[test]
fn commands_within_a_sentence_are_found_across_lines() {
    let document = "a `seawall b\nc` `d`\n```text\n`seawall e`\n```\n(`wal-dump f`)\n";
    assert_eq!(spans(document), ["seawall b c", "wal-dump f"]);
}
