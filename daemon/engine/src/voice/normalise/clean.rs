//! Marks that are not spoken: markdown, emojis, brackets, quotes, typographic dashes. Text in, plainer text out.

/// Removes what is markup and turns what is a pause into a comma or a full stop.
pub(super) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let line = line.trim();
        let heading = line.trim_start_matches('#');
        let line = if heading.starts_with(' ') || heading.is_empty() { heading } else { line };
        let line = line.trim_start_matches(['>', '•', '|', ' ']);
        let line = ["- ", "* ", "+ ", "– "].iter().find_map(|bullet| line.strip_prefix(bullet)).unwrap_or(line);
        let line = numbered(line).trim_end_matches(['#', '|']).trim();
        if line.is_empty() || line.chars().all(|c| matches!(c, '-' | '=' | '*' | '_' | '`' | '~')) {
            continue;
        }
        if out.ends_with(|c: char| c.is_alphanumeric() || c == '%') {
            out.push('.');
        }
        if !out.is_empty() {
            out.push(' ');
        }
        plain(&links(line), &mut out);
    }
    out
}

/// Punctuation, and digits and letters of full width, as they are written in English.
pub(super) fn punctuated(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let chars: Vec<char> = text.chars().collect();
    let digit = |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(|c| c.is_numeric());
    for (at, &c) in chars.iter().enumerate() {
        let follow = (1..5).take_while(|more| digit(Some(at + more))).count();
        let within = digit(at.checked_sub(1)) && follow > 0;
        match c {
            // Of one number or time, not a pause between two: of a list (`1，2，3`) each is said.
            '：' if within => out.push(':'),
            '，' if within && follow == 3 => out.push(','),
            '。' | '।' | '॥' => out.push_str(". "),
            '、' | '，' => out.push_str(", "),
            '！' | '？' | '：' | '；' => out.extend([narrow(c), ' ']),
            '〜' | '～' => out.push('-'),
            // A sign that is kept; who reads it knows where it stood.
            '￥' | '¥' => out.push('円'),
            '\u{966}'..='\u{96f}' => out.extend(char::from_digit(u32::from(c) - 0x966, 10)),
            '\u{ff01}'..='\u{ff5e}' => out.push(narrow(c)),
            c => out.push(c),
        }
    }
    out
}

fn narrow(c: char) -> char {
    char::from_u32(u32::from(c).wrapping_sub(0xfee0)).unwrap_or(c)
}

/// `1. First` → `First`, of a list's line.
fn numbered(line: &str) -> &str {
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = line.len() - rest.len();
    match rest.strip_prefix(['.', ')']).and_then(|rest| rest.strip_prefix(' ')) {
        Some(item) if (1..=2).contains(&digits) => item,
        _ => line,
    }
}

/// `[text](address)` → `text`.
fn links(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('[') {
        let Some((text, tail)) = after.split_once("](") else { break };
        let Some((_, tail)) = tail.split_once(')') else { break };
        out.push_str(before.strip_suffix('!').unwrap_or(before));
        out.push_str(text);
        rest = tail;
    }
    out.push_str(rest);
    out
}

fn plain(line: &str, out: &mut String) {
    let chars: Vec<char> = line.chars().collect();
    let near = |at: Option<usize>| at.and_then(|at| chars.get(at)).copied().unwrap_or(' ');
    for (at, &c) in chars.iter().enumerate() {
        let (before, after) = (near(at.checked_sub(1)), near(Some(at + 1)));
        match c {
            '’' | '‘' | 'ʼ' | '\'' | '`' => {
                // An apostrophe, not a quotation mark.
                if before.is_alphanumeric() && after.is_alphanumeric() && c != '`' {
                    out.push('\'');
                }
            }
            '"' | '“' | '”' | '„' | '«' | '»' | '*' | '~' | '^' | '\\' => {}
            '_' if before.is_alphanumeric() && after.is_alphanumeric() => out.push('_'),
            '_' => {}
            '(' | '[' | '{' if after.is_ascii_digit() || after == '+' => out.push(' '),
            ')' | ']' | '}' if before.is_ascii_digit() && (after == ' ' || after.is_ascii_digit()) => out.push(' '),
            '(' | '[' | '{' => out.push_str(", "),
            ')' | ']' | '}' if matches!(after, '.' | ',' | '!' | '?' | ';' | ':') || at + 1 == chars.len() => {}
            ')' | ']' | '}' => out.push_str(", "),
            '…' => out.push_str(", "),
            '–' | '—' | '‒' | '‐' | '‑' | '−' | '-' => {
                let joined = before != ' ' && after != ' ' && before != '-' && after != '-';
                let sign = before == ' ' && after.is_ascii_digit();
                if joined && c == '—' || !joined && !sign {
                    out.push_str(if before == '-' { " " } else { ", " });
                } else {
                    out.push('-');
                }
            }
            '\u{a0}' | '\u{202f}' | '\u{2009}' => out.push(' '),
            '½' => out.push_str(" 1/2"),
            '¼' => out.push_str(" 1/4"),
            '¾' => out.push_str(" 3/4"),
            '.' | ',' | '!' | '?' | ';' | ':' | '$' | '€' | '£' | '%' | '°' | '@' | '/' | '+' | '&' | '=' | '#' => {
                out.push(c)
            }
            c if c.is_alphabetic() || c.is_ascii_digit() => out.push(c),
            c if c.is_whitespace() => out.push(' '),
            // Combining accents belong to the letter before them; all else (emojis, other numerals) is not spoken.
            '\u{300}'..='\u{36f}' | '\u{900}'..='\u{963}' => out.push(c),
            _ => out.push(' '),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_marks_within_a_number_are_no_pauses() {
        for (text, wanted) in [
            ("9：30、１，０００円", "9:30, 1,000円"),
            ("３．５％。", "3.5%. "),
            ("电话：123，请按1，2，3", "电话: 123, 请按1, 2, 3"),
        ] {
            assert_eq!(punctuated(text), wanted);
        }
    }
}
