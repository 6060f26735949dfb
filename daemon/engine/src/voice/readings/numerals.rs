//! Digits in; what is said of them, in Chinese characters, out: numbers, times, prices, shares, ranges, and telephone numbers
//! one digit after the other. Both Japanese and Chinese readers take it from there; for espeak-ng only the last is done.
//! Never here: a digit in what is written for Japanese or Chinese.

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
/// So many digits that nothing groups, and of which nothing says what they count, are a telephone's or an account's.
const NAMED: usize = 8;
/// What says that digits before it count something, in Japanese and Chinese; any katakana does too.
const COUNTERS: &str = "円元块人名个個位台件回次株点倍票万億亿吨米公里户戸字美欧英%$€£";
/// What such a word begins with in the languages that espeak-ng reads.
const UNITS: [&str; 13] = ["円", "$", "€", "£", "%", "euro", "dól", "dol", "reai", "रुप", "habitant", "abitant", "km"];
/// Numbers that are written out: a sign after them is theirs.
const WRITTEN: &str = "一二三四五六七八九十百千万億亿数何";

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

/// A text with words for the waves between two numbers or times: `9:00～17:30`.
pub(super) fn spans(text: &str, script: Script) -> String {
    let chars: Vec<char> = text.chars().collect();
    let number = |c: &char| c.is_numeric() || matches!(c, '￥' | '¥' | '$' | '€' | '£');
    let mut out = String::with_capacity(text.len());
    for (at, &c) in chars.iter().enumerate() {
        let next = chars.iter().skip(at + 1).find(|c| !c.is_whitespace());
        let is_wave = matches!(c, '〜' | '～' | '~') && next.is_some_and(number);
        // What was counted, or is shown, may stand between: `3日〜5日`.
        if is_wave && chars.iter().take(at).rev().take(4).any(|c| c.is_numeric()) {
            out.push_str(script.of("から", "到"));
        } else {
            out.push(c);
        }
    }
    out
}

/// A text whose telephone and account numbers are read one digit after the other: with spaces between them.
pub(super) fn spaced(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let (run, after) = from.split_at(from.find(|c: char| !c.is_ascii_digit()).unwrap_or(from.len()));
        let grouped = after.starts_with(['.', ',', ':']) && after.chars().nth(1).is_some_and(|c| c.is_ascii_digit())
            || matches!(before, "." | "," | ":");
        let unit: String = after.trim_start().chars().take(8).flat_map(char::to_lowercase).collect();
        let counts =
            before.trim_end().ends_with(['円', '$', '€', '£']) || UNITS.iter().any(|known| unit.starts_with(known));
        if run.len() < NAMED || grouped || counts {
            out.push_str(run);
        } else {
            let digits: Vec<String> = run.chars().map(String::from).collect();
            out.push_str(&digits.join(" "));
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// A text without digits.
pub(super) fn written(text: &str, script: Script) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(at);
        // Only of what comes before this number: a sign after an amount before it was that one's.
        let sign = before.trim_end().char_indices().next_back().and_then(|(at, sign)| {
            let (before, _) = before.split_at(at);
            Some((before, script.currency(sign)?)).filter(|_| !before.ends_with(|c: char| WRITTEN.contains(c)))
        });
        out.push_str(sign.map_or(before, |(before, _)| before));
        let end = from.find(|c: char| !(c.is_ascii_digit() || ":,.-".contains(c))).unwrap_or(from.len());
        let run = from.split_at(end).0.trim_end_matches(|c: char| !c.is_ascii_digit());
        let after = from.strip_prefix(run).unwrap_or_default();
        let parts: Vec<&str> = run.split('-').collect();
        let short = |part: &&str| part.contains(':') || part.len() <= 2 && !part.is_empty();
        // The first year of a span is said as the second.
        let span = after.strip_prefix('到').map_or(after, |to| to.trim_start_matches(|c: char| c.is_ascii_digit()));
        let counter = |c: char| COUNTERS.contains(c) || ('ァ'..='ヺ').contains(&c);
        let counts = sign.is_some()
            || after.trim_start().starts_with(counter)
            || after.starts_with(|c: char| c.is_ascii_alphabetic());
        let mut said = match parts.as_slice() {
            [year] if script == Script::Chinese && year.len() == 4 && span.starts_with('年') => {
                script.one_by_one(year)
            }
            [bare] if bare.len() >= NAMED && !counts && bare.bytes().all(|c| c.is_ascii_digit()) => {
                script.one_by_one(bare)
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
        let is_sign = |c: char| script.currency(c).is_some();
        if let Some((_, name)) = sign {
            said.push_str(name);
        } else if let Some(name) = left.trim_start().chars().next().and_then(|sign| script.currency(sign)) {
            let others = left.trim_start().trim_start_matches(is_sign);
            // Apart from this number, and the next one's: `20 $30`.
            if left.starts_with(is_sign) || !others.starts_with(|c: char| c.is_ascii_digit()) {
                said.push_str(name);
                left = others;
            }
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
            ("120000000人", "一億二千万人", "一亿二千万人"),
            ("円12000000", "千二百万円", "一千二百万元"),
            ("12,000,000", "千二百万", "一千二百万"),
            ("13800138000.", "一三八ゼロゼロ一三八ゼロゼロゼロ.", "一三八零零一三八零零零."),
            ("3.50", "三点五ゼロ", "三点五零"),
            ("9:00-17:30", "九時から十七時三十分", "九点到十七点三十分"),
            ("03-1234-0567", "ゼロ三, 一二三四, ゼロ五六七", "零三, 一二三四, 零五六七"),
            ("円1500", "千五百円", "一千五百元"),
            ("1000円2枚", "千円二枚", "一千元二枚"),
            ("500円 1000円", "五百円 千円", "五百元 一千元"),
            ("500 円 1000 円", "五百円 千円", "五百元 一千元"),
            ("20 $30", "二十 三十ドル", "二十 三十美元"),
            ("5000円60分", "五千円六十分", "五千元六十分"),
            ("千円2枚", "千円二枚", "千円二枚"),
            ("15%.", "十五パーセント.", "百分之十五."),
            ("2026年", "二千二十六年", "二零二六年"),
            ("1:2:3", "一二三", "一二三"),
        ] {
            assert_eq!(written(text, Script::Japanese), japanese, "{text}");
            assert_eq!(written(text, Script::Chinese), chinese, "{text}");
        }
    }

    #[test]
    fn waves_between_numbers_are_said() {
        for (text, japanese, chinese) in [
            ("9:00～17:30", "9:00から17:30", "9:00到17:30"),
            ("100〜200円", "100から200円", "100到200円"),
            ("￥500〜￥900", "￥500から￥900", "￥500到￥900"),
            ("３日〜５日", "３日から５日", "３日到５日"),
            ("あ〜、3時", "あ〜、3時", "あ〜、3時"),
            ("東京〜大阪", "東京〜大阪", "東京〜大阪"),
        ] {
            assert_eq!(spans(text, Script::Japanese), japanese, "{text}");
            assert_eq!(spans(text, Script::Chinese), chinese, "{text}");
        }
        assert_eq!(written("2020到2025年", Script::Chinese), "二零二零到二零二五年");
    }

    #[test]
    fn telephone_numbers_are_taken_apart_and_amounts_are_not() {
        for (text, wanted) in [
            ("Llame al 912345678.", "Llame al 9 1 2 3 4 5 6 7 8."),
            ("+34912345678, o 2", "+3 4 9 1 2 3 4 5 6 7 8, o 2"),
            ("12345678 euros", "12345678 euros"),
            ("$ 12345678", "$ 12345678"),
            ("12345678,50 o 1.23456789", "12345678,50 o 1.23456789"),
            ("1234567", "1234567"),
        ] {
            assert_eq!(spaced(text), wanted);
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
