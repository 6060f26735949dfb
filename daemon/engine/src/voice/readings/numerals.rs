//! Digits in; what is said of them, in Chinese characters, out: numbers, times, prices, shares, ranges, and telephone numbers
//! one digit after the other. Both Japanese and Chinese readers take it from there. Never here: a digit in what comes out.

/// Whose words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Script {
    Japanese,
    Chinese,
}

const DIGITS: [char; 10] = ['零', '一', '二', '三', '四', '五', '六', '七', '八', '九'];
const POWERS: [&str; 4] = ["", "十", "百", "千"];
/// Of ten thousands; what is longer is said digit by digit.
const MYRIADS: [[&str; 3]; 2] = [["", "万", "億"], ["", "万", "亿"]];
const LONGEST: usize = 12;

impl Script {
    fn of(self, japanese: &'static str, chinese: &'static str) -> &'static str {
        if self == Self::Japanese { japanese } else { chinese }
    }

    fn digit(self, digit: usize) -> String {
        match (self, digit) {
            (Self::Japanese, 0) => "ゼロ".into(),
            _ => DIGITS[digit % 10].to_string(),
        }
    }

    fn one_by_one(self, digits: &str) -> String {
        digits.bytes().filter(u8::is_ascii_digit).map(|digit| self.digit(usize::from(digit - b'0'))).collect()
    }

    /// A number without a sign.
    fn whole(self, digits: &str) -> String {
        if digits.len() > LONGEST || digits.len() > 1 && digits.starts_with('0') {
            return self.one_by_one(digits);
        }
        let mut out = String::new();
        // A zero before this digit that is still to be said, as only Chinese does.
        let mut gap = false;
        let mut group = false;
        for (at, digit) in digits.bytes().enumerate() {
            let (digit, place) = (usize::from(digit.saturating_sub(b'0')), digits.len() - 1 - at);
            if digit == 0 {
                gap = !out.is_empty();
            } else {
                if std::mem::take(&mut gap) && self == Self::Chinese {
                    out.push('零');
                }
                let silent_one = match self {
                    Self::Japanese => place % 4 > 0,
                    Self::Chinese => place % 4 == 1 && out.is_empty(),
                };
                if digit != 1 || !silent_one {
                    out.push(DIGITS[digit % 10]);
                }
                out.push_str(POWERS[place % 4]);
                group = true;
            }
            if place % 4 == 0 && std::mem::take(&mut group) {
                out.push_str(MYRIADS[usize::from(self == Self::Chinese)][place / 4]);
            }
        }
        if out.is_empty() { self.digit(0) } else { out }
    }

    /// A number, a time, or what looks like neither.
    fn said(self, run: &str) -> String {
        if let Some((hours, minutes)) = run.split_once(':') {
            let is_time = hours.len() <= 2 && minutes.len() == 2 && minutes.bytes().all(|c| c.is_ascii_digit());
            if !is_time {
                return self.one_by_one(run);
            }
            let number = |digits: &str| self.whole(digits.strip_prefix('0').unwrap_or(digits));
            let hours = number(hours) + self.of("時", "点");
            return if minutes == "00" { hours } else { hours + &number(minutes) + self.of("分", "分") };
        }
        let thousands = run.split(',').skip(1).all(|group| group.split('.').next().is_some_and(|g| g.len() == 3));
        if !thousands {
            return self.one_by_one(run);
        }
        let run = run.replace(',', "");
        match run.split_once('.') {
            None => self.whole(&run),
            Some((whole, part)) if part.bytes().all(|c| c.is_ascii_digit()) => {
                self.whole(whole) + self.of("点", "点") + &self.one_by_one(part)
            }
            Some(_) => self.one_by_one(&run),
        }
    }

    fn currency(self, sign: char) -> Option<&'static str> {
        Some(match sign {
            '円' => self.of("円", "元"),
            '$' => self.of("ドル", "美元"),
            '€' => self.of("ユーロ", "欧元"),
            '£' => self.of("ポンド", "英镑"),
            _ => return None,
        })
    }
}

/// A text without digits.
pub(super) fn written(text: &str, script: Script) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let end = from.find(|c: char| !(c.is_ascii_digit() || ":,.-".contains(c))).unwrap_or(from.len());
        let run = from.split_at(end).0.trim_end_matches(|c: char| !c.is_ascii_digit());
        let after = from.strip_prefix(run).unwrap_or_default();
        let parts: Vec<&str> = run.split('-').collect();
        let short = |part: &&str| part.contains(':') || part.len() <= 2 && !part.is_empty();
        let mut said = match parts.as_slice() {
            [year] if script == Script::Chinese && year.len() == 4 && after.starts_with('年') => {
                script.one_by_one(year)
            }
            [one] => script.said(one),
            [one, other] if short(one) && short(other) => {
                script.said(one) + script.of("から", "到") + &script.said(other)
            }
            parts => parts.iter().map(|part| script.one_by_one(part)).collect::<Vec<_>>().join(", "),
        };
        let mut left = after;
        if let Some(more) = after.strip_prefix('%') {
            said = if script == Script::Japanese { said + "パーセント" } else { format!("百分之{said}") };
            left = more;
        }
        let sign = out.trim_end().chars().next_back().and_then(|sign| Some((sign, script.currency(sign)?)));
        if let Some((sign, name)) = sign {
            out.truncate(out.trim_end().len() - sign.len_utf8());
            said.push_str(name);
        } else if let Some(name) = left.chars().next().and_then(|sign| script.currency(sign)) {
            said.push_str(name);
            left = left.trim_start_matches(|c| script.currency(c).is_some());
        }
        out.push_str(&said);
        rest = left;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_said_as_each_language_says_them() {
        for (text, japanese, chinese) in [
            ("10", "十", "十"),
            ("0", "ゼロ", "零"),
            ("115", "百十五", "一百一十五"),
            ("1005", "千五", "一千零五"),
            ("20,300", "二万三百", "二万零三百"),
            ("120000000", "一億二千万", "一亿二千万"),
            ("3.50", "三点五ゼロ", "三点五零"),
            ("9:00-17:30", "九時から十七時三十分", "九点到十七点三十分"),
            ("03-1234-0567", "ゼロ三, 一二三四, ゼロ五六七", "零三, 一二三四, 零五六七"),
            ("円1500", "千五百円", "一千五百元"),
            ("15%.", "十五パーセント.", "百分之十五."),
            ("2026年", "二千二十六年", "二零二六年"),
            ("1:2:3", "一二三", "一二三"),
        ] {
            assert_eq!(written(text, Script::Japanese), japanese, "{text}");
            assert_eq!(written(text, Script::Chinese), chinese, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_digit_is_left(text in "[0-9:,.%円$ a年-]{0,40}", japanese: bool) {
            let script = if japanese { Script::Japanese } else { Script::Chinese };
            prop_assert!(!written(&text, script).bytes().any(|c| c.is_ascii_digit()));
        }
    }
}
