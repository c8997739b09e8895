//! Splits a command into words the way a shell does, without being one.

/// Why a command cannot be split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WordsError {
    /// The quote is not closed.
    Unclosed(char),
    /// The word means something to a shell only.
    Operator(String),
}

/// Splits at blanks. Quotes and backslashes work as in `sh`; variables,
/// patterns and operators are not interpreted.
pub(super) fn split(command: &str) -> Result<Vec<String>, WordsError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = command.chars();
    loop {
        let next = chars.next();
        match next {
            None | Some(' ' | '\t' | '\n' | '\r') => {
                if let Some(word) = word.take() {
                    if !quoted && is_operator(&word) {
                        return Err(WordsError::Operator(word));
                    }
                    words.push(word);
                }
                quoted = false;
                if next.is_none() {
                    return Ok(words);
                }
            }
            Some('\'') => {
                quoted = true;
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err(WordsError::Unclosed('\'')),
                        Some('\'') => break,
                        Some(c) => word.push(c),
                    }
                }
            }
            Some('"') => {
                quoted = true;
                double_quoted(&mut chars, word.get_or_insert_default())?;
            }
            Some('\\') => {
                quoted = true;
                match chars.next() {
                    // A backslash before a line's end joins the two lines.
                    Some('\n') => {}
                    Some(c) => word.get_or_insert_default().push(c),
                    None => word.get_or_insert_default().push('\\'),
                }
            }
            Some(c) => word.get_or_insert_default().push(c),
        }
    }
}

fn double_quoted(chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), WordsError> {
    loop {
        match chars.next() {
            None => return Err(WordsError::Unclosed('"')),
            Some('"') => return Ok(()),
            Some('\\') => match chars.next() {
                None => return Err(WordsError::Unclosed('"')),
                Some('\n') => {}
                Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                Some(c) => word.extend(['\\', c]),
            },
            Some(c) => word.push(c),
        }
    }
}

fn is_operator(word: &str) -> bool {
    word.chars()
        .all(|c| matches!(c, '|' | '&' | ';' | '<' | '>'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(command: &str, words: &[&str]) {
        assert_eq!(split(command).unwrap(), words);
    }

    #[test]
    fn words_are_those_a_shell_would_see() {
        check("emojivoto web", &["emojivoto", "web"]);
        check("  a\t'b c'  \"d 'e'\"\n", &["a", "b c", "d 'e'"]);
        check(r#"a\ b "\"" "\x" '\' "#, &["a b", "\"", "\\x", "\\"]);
        check("--name='x y'z", &["--name=x yz"]);
        check("a '' b", &["a", "", "b"]);
        check("one \\\n two", &["one", "two"]);
        check("http://h/?a=1&b=2 '|'", &["http://h/?a=1&b=2", "|"]);
        check("", &[]);
    }

    #[test]
    fn open_quotes_and_operators_are_refused() {
        assert_eq!(split("a 'b"), Err(WordsError::Unclosed('\'')));
        assert_eq!(split("a \"b\\"), Err(WordsError::Unclosed('"')));
        assert_eq!(split("a | b"), Err(WordsError::Operator("|".to_owned())));
        assert_eq!(split("a && b"), Err(WordsError::Operator("&&".to_owned())));
    }

    proptest! {
        #[test]
        fn no_command_panics(command in any::<String>()) {
            let _ = split(&command);
        }

        #[test]
        fn single_quotes_keep_every_word(words in prop::collection::vec("[^'\0]{0,12}", 0..5)) {
            let command: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
            prop_assert_eq!(split(&command.join(" ")).unwrap(), words);
        }
    }
}
