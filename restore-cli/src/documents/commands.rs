//! The command lines that a document shows: what a reader would copy, as the shell would split it.
//!
//! Not a shell: it knows quotes, `\` at the end of a line, comments, pipes and redirections, as far
//! as the documents use them. Both programs' tests include this file.

/// A command line in a document.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// The line, from 1.
    pub(super) line: usize,
    /// The program first.
    pub(super) words: Vec<String>,
    /// It is shown to be run as it is; otherwise it is mentioned in a sentence and may be cut
    /// short.
    pub(super) whole: bool,
}

/// All command lines of `program` in a Markdown document.
pub(super) fn of(document: &str, program: &str) -> Vec<Shown> {
    let (mut shown, mut prose, mut fenced) = (Vec::new(), String::new(), None::<(usize, String)>);
    let mut in_fence = false;
    for (index, line) in document.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_fence = !in_fence;
        } else if in_fence {
            let (first, mut command) = fenced.take().unwrap_or((index + 1, String::new()));
            if let Some(begun) = line.strip_suffix('\\') {
                command.push_str(begun);
                fenced = Some((first, command));
            } else {
                command.push_str(line);
                let found = command_of(&command, program);
                shown.extend(found.into_iter().map(|words| Shown { line: first, words, whole: true }));
            }
            prose.push('\n');
            continue;
        } else {
            prose.push_str(line);
        }
        prose.push('\n');
    }
    for (line, span) in spans(&prose) {
        let found = if begins_with(&span, program) { command_of(&span, program) } else { Vec::new() };
        shown.extend(found.into_iter().map(|words| Shown { line, words, whole: false }));
    }
    shown
}

/// A mention begins with the program, or with `sudo`.
fn begins_with(span: &str, program: &str) -> bool {
    let mut words = span.split_whitespace();
    words.next().is_some_and(|first| first == program || first == "sudo") && words.next().is_some()
}

/// The code spans of prose, each with the line in which it begins.
fn spans(prose: &str) -> Vec<(usize, String)> {
    let mut line = 1;
    let mut found = Vec::new();
    for (index, part) in prose.split('`').enumerate() {
        if index % 2 == 1 {
            found.push((line, part.replace('\n', " ")));
        }
        line += part.matches('\n').count();
    }
    found
}

/// The commands of `program` in a line of shell.
fn command_of(line: &str, program: &str) -> Vec<Vec<String>> {
    let is_program = |word: &String| word == program || *word == format!("/usr/local/bin/{program}");
    let mut commands = Vec::new();
    for words in split(line) {
        let Some(at) = words.iter().position(is_program) else { continue };
        // What comes before must only hand on: `sudo -u postgres lifeboat`, not
        // `systemctl edit lifeboat`.
        let hands_on = match words[0].as_str() {
            "sudo" => at == 1 || words[1..at].iter().all(|word| word.starts_with('-')) || words[1] == "-u" && at == 3,
            "systemd-run" => words[at].starts_with('/'),
            _ => at == 0,
        };
        if hands_on {
            let rest = words[at + 1..].iter().map(|word| placeholder(word));
            commands.push(std::iter::once(program.to_owned()).chain(rest).collect());
        }
    }
    commands
}

/// What stands for anything becomes a word that fits where a name does, and `ID` a snapshot.
fn placeholder(word: &str) -> String {
    if word == "ID" {
        return "20261123T183244123Z-9f2c81aa".to_owned();
    }
    let stands_for_a_word = !word.is_empty() && word.chars().all(|letter| letter.is_ascii_uppercase() || letter == '-');
    if word == "…" || (stands_for_a_word && !word.starts_with('-')) { "word".to_owned() } else { word.to_owned() }
}

/// The words of each command of a line, up to its pipe, list or redirection.
fn split(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let (mut word, mut quote, mut skips, mut parentheses) = (None::<String>, None, false, 0_usize);
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(letter),
            (None, '\'' | '"') => {
                word.get_or_insert_default();
                quote = Some(letter);
            }
            (None, ')') if parentheses > 0 => {
                parentheses -= 1;
                word.get_or_insert_default().push(letter);
            }
            (None, _) if parentheses > 0 => word.get_or_insert_default().push(letter),
            // `<(age -d master.age)` is one word, as what it makes is one file.
            (None, '<') if word.is_none() && letters.peek() == Some(&'(') => {
                letters.next();
                parentheses += 1;
                word = Some("<(".to_owned());
            }
            (None, '#') if word.is_none() => break,
            (None, '<' | '>') => {
                // `2>` says which output it is about.
                word.take_if(|word| word.chars().all(|digit| digit.is_ascii_digit()));
                finish(&mut word, &mut commands, &mut skips);
                skips = true;
            }
            (None, '|' | ';' | '&') if !(letter == '&' && skips && word.is_none()) => {
                finish(&mut word, &mut commands, &mut skips);
                commands.push(Vec::new());
            }
            (None, _) if letter.is_whitespace() => finish(&mut word, &mut commands, &mut skips),
            (None, _) => word.get_or_insert_default().push(letter),
        }
    }
    finish(&mut word, &mut commands, &mut skips);
    commands.retain(|words| !words.is_empty());
    commands
}

/// Puts a word that is complete to its command, unless a redirection awaits it.
fn finish(word: &mut Option<String>, commands: &mut [Vec<String>], skips: &mut bool) {
    if let (Some(word), Some(command)) = (word.take(), commands.last_mut())
        && !std::mem::take(skips)
    {
        command.push(word);
    }
}

#[test]
fn commands_are_found_as_a_shell_would_split_them() {
    let document = r#"Say `p list` and `q p x`; `p
show`, `p`.

   ```
   sudo -u x p a 'b c' \
     --d E-F >out 2>&1 --e # no
   systemctl edit p
   p "x" | p y && cat z; p <(age -d k) … RW…
   systemd-run -p A=b /usr/local/bin/p --once shop
   ```
"#;
    let found: Vec<_> =
        of(document, "p").into_iter().map(|shown| (shown.line, shown.words.join("_"), shown.whole)).collect();
    let expected = [
        (5, "p_a_b c_--d_word_--e", true),
        (8, "p_x", true),
        (8, "p_y", true),
        (8, "p_<(age -d k)_word_RW…", true),
        (9, "p_--once_shop", true),
        (1, "p_list", false),
        (1, "p_show", false),
    ];
    assert_eq!(found, expected.map(|(line, words, whole)| (line, words.to_owned(), whole)));
}
