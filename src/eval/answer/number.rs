//! Numbers as people and models write them: separators, signs, fractions, roots, powers, percent.

/// How deep fractions, roots and brackets may stand in each other.
const MAX_DEPTH: u32 = 8;
/// Groups of digits in one number; more is no number that anybody wrote.
const MAX_GROUPS: usize = 16;
/// Stands where a currency sign stood: no letter, no digit, and skipped between a sign and its number.
const CURRENCY: char = '¤';
/// Every narrow or unbreakable space becomes this one.
const THIN: char = '\u{2009}';

/// The first number of a text.
pub fn first(text: &str) -> Option<f64> {
    let mut scanner = Scanner::new(text);
    // `x1 = 5` is 5; but where there is nothing else, `Rs500` is 500.
    scanner.next_number(false).or_else(|| {
        scanner.at = 0;
        scanner.next_number(true)
    })
}

/// The last number of a text.
pub fn last(text: &str) -> Option<f64> {
    let mut scanner = Scanner::new(text);
    std::iter::from_fn(|| scanner.next_number(false)).last()
}

/// The value of a text that is one expression and nothing else: `\frac{1+\sqrt{5}}{2}`, `3 + 4`.
pub fn whole(text: &str) -> Option<f64> {
    let mut scanner = Scanner::new(text);
    scanner.blanks();
    let value = scanner.expression(MAX_DEPTH)?;
    scanner.blanks();
    if scanner.peek() == Some('.') {
        scanner.at += 1;
    }
    (scanner.at == scanner.text.len()).then_some(value)
}

/// A digit of any script that is in use on the web, as one of ours.
pub fn ascii_digit(c: char) -> Option<char> {
    const ZEROS: [char; 5] = ['\u{660}', '\u{6f0}', '\u{966}', '\u{9e6}', '\u{ff10}'];
    let value = match c {
        '0'..='9' => return Some(c),
        // Bold, double-struck and other mathematical digits: five sets one after another.
        '\u{1d7ce}'..='\u{1d7ff}' => (u32::from(c) - 0x1d7ce) % 10,
        _ => ZEROS.iter().map(|zero| u32::from(c).wrapping_sub(u32::from(*zero))).find(|value| *value < 10)?,
    };
    char::from_digit(value, 10)
}

/// The text in fewer signs: one minus, one thin space, one fraction command, digits of ours; without emphasis and
/// TeX's sizes.
fn plain(text: &str) -> Vec<char> {
    const WORDS: [(&str, &str); 15] = [
        ("{,}", ","),
        ("\\!", ""),
        ("\\$", "¤"),
        ("\\,", "\u{2009}"),
        ("\\;", "\u{2009}"),
        ("\\:", "\u{2009}"),
        ("\\ ", " "),
        ("\\left(", "("),
        ("\\right)", ")"),
        ("\\displaystyle", ""),
        ("\\dfrac", "\\frac"),
        ("\\tfrac", "\\frac"),
        ("\\cfrac", "\\frac"),
        ("__", ""),
        ("`", ""),
    ];
    let mut text = text.to_string();
    for (long, short) in WORDS {
        if text.contains(long) {
            text = text.replace(long, short);
        }
    }
    let mut out: Vec<char> = Vec::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '−' | '﹣' | '－' | '–' => out.push('-'),
            '$' | '€' | '£' | '¥' | '₹' | '₩' | '₽' | '₺' | '＄' => out.push(CURRENCY),
            '\u{a0}' | '\u{2007}' | '\u{2008}' | '\u{2009}' | '\u{200a}' | '\u{202f}' => out.push(THIN),
            '\u{200b}' | '\u{200c}' | '\u{200d}' | '\u{2060}' | '\u{feff}' => {}
            '⁄' | '∕' => out.push('/'),
            '％' => out.push('%'),
            '，' => out.push(','),
            '．' => out.push('.'),
            // Bold type, or Python's power.
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                let after = chars.peek().is_some_and(|c| c.is_ascii_digit() || *c == '-');
                if after && out.last().is_some_and(char::is_ascii_digit) {
                    out.push('^');
                }
            }
            _ => out.push(ascii_digit(c).unwrap_or(c)),
        }
    }
    out
}

/// Reads numbers off a text.
struct Scanner {
    text: Vec<char>,
    at: usize,
}

/// What stands for a number without a sign: its value, and whether it is written as a plain whole number.
struct Factor {
    value: f64,
    whole: bool,
}

impl Scanner {
    fn new(text: &str) -> Self {
        Self { text: plain(text), at: 0 }
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn ahead(&self, by: usize) -> Option<char> {
        self.text.get(self.at + by).copied()
    }

    fn before(&self, at: usize) -> Option<char> {
        at.checked_sub(1).map(|i| self.text[i])
    }

    fn digit(&self, by: usize) -> bool {
        self.ahead(by).is_some_and(|c| c.is_ascii_digit())
    }

    fn blanks(&mut self) {
        while self.peek().is_some_and(is_blank) {
            self.at += 1;
        }
    }

    fn eat(&mut self, word: &str) -> bool {
        let mut end = self.at;
        for c in word.chars() {
            if self.text.get(end) != Some(&c) {
                return false;
            }
            end += 1;
        }
        self.at = end;
        true
    }

    /// Goes back to where an attempt began if it came to nothing.
    fn attempt<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let start = self.at;
        let value = read(self);
        if value.is_none() {
            self.at = start;
        }
        value
    }

    /// The next number, its sign applied. `in_words`: also where digits are a part of a word.
    fn next_number(&mut self, in_words: bool) -> Option<f64> {
        while let Some(c) = self.peek() {
            if let Some(value) = self.attempt(|s| s.signed(in_words)) {
                return Some(value);
            }
            match c {
                '\\' => self.command(),
                // The 2 of `cm^2` and of `x_2` is no number of its own.
                '^' => self.script(),
                '_' if self.before(self.at).is_some_and(|c| c.is_alphanumeric() || c == '}') => self.script(),
                '0'..='9' => {
                    while self.peek().is_some_and(|c| c.is_ascii_digit()) {
                        self.at += 1;
                    }
                }
                _ => self.at += 1,
            }
        }
        None
    }

    /// Skips a TeX command that is no number. A digit right behind it is no part of a word.
    fn command(&mut self) {
        self.at += 1;
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphabetic()) {
            self.at += 1;
        }
        if self.at > start && self.digit(0) {
            self.text[self.at - 1] = ' ';
        }
    }

    /// Skips a superscript or subscript.
    fn script(&mut self) {
        self.at += 1;
        if self.peek() == Some('{') {
            while self.peek().is_some_and(|c| c != '}' && c != '\n') {
                self.at += 1;
            }
        } else {
            while self.peek().is_some_and(|c| c.is_ascii_digit() || c == '-') {
                self.at += 1;
            }
        }
    }

    fn signed(&mut self, in_words: bool) -> Option<f64> {
        let start = self.at;
        let negative = self.peek() == Some('-') && self.is_sign();
        if negative {
            self.at += 1;
            while self.peek().is_some_and(|c| is_blank(c) || c == CURRENCY) {
                self.at += 1;
            }
        } else if !in_words && self.digit(0) && self.before(start).is_some_and(is_latin) {
            return None;
        }
        let value = self.quantity(MAX_DEPTH)?;
        Some(if negative { -value } else { value })
    }

    /// Whether a minus is a sign: not between two things, and not the bullet of a list.
    fn is_sign(&self) -> bool {
        let before = &self.text[..self.at];
        let operand = |c: &char| c.is_alphanumeric() || matches!(c, ')' | ']' | '}' | '%');
        if !self.ahead(1).is_some_and(is_blank) {
            return !before.last().is_some_and(operand);
        }
        match before.iter().rev().find(|c| !is_blank(**c) && **c != CURRENCY) {
            Some('\n') => false,
            Some(c) => !operand(c),
            None => true,
        }
    }

    /// Sums and products, as they stand in a fraction or in a box.
    fn expression(&mut self, depth: u32) -> Option<f64> {
        let mut sum = 0.0;
        let mut negative = self.operator(&["-"]).is_some();
        loop {
            self.blanks();
            let term = self.product(depth)?;
            sum += if negative { -term } else { term };
            match self.operator(&["+", "-"]) {
                Some(sign) => negative = sign == "-",
                None => return Some(sum).filter(|v| v.is_finite()),
            }
        }
    }

    fn product(&mut self, depth: u32) -> Option<f64> {
        let mut value = self.quantity(depth).or_else(|| self.bracket(depth))?;
        loop {
            match self.operator(&["\\times", "\\cdot", "\\div", "×", "·", "⋅", "÷", "*", "/"]) {
                Some("\\div" | "÷" | "/") => value /= self.operand(depth).filter(|v| *v != 0.0)?,
                Some(_) => value *= self.operand(depth)?,
                None => match self.bracket(depth) {
                    Some(factor) => value *= factor,
                    None => return Some(value),
                },
            }
        }
    }

    fn operand(&mut self, depth: u32) -> Option<f64> {
        self.blanks();
        let negative = self.eat("-");
        let value = self.quantity(depth).or_else(|| self.bracket(depth))?;
        Some(if negative { -value } else { value })
    }

    /// The operator that stands here, blanks before it skipped.
    fn operator(&mut self, known: &[&'static str]) -> Option<&'static str> {
        self.attempt(|s| {
            s.blanks();
            known.iter().copied().find(|operator| s.eat(operator))
        })
    }

    /// `( … )` with its power.
    fn bracket(&mut self, depth: u32) -> Option<f64> {
        let depth = depth.checked_sub(1)?;
        self.attempt(|s| {
            s.blanks();
            if !s.eat("(") {
                return None;
            }
            let value = s.expression(depth)?;
            s.blanks();
            s.eat(")").then(|| s.powered(value, depth))
        })
    }

    /// What reads as one number: factors side by side, a mixed number, a divisor, a power of ten, percent.
    fn quantity(&mut self, depth: u32) -> Option<f64> {
        let Factor { mut value, whole } = self.factor(depth)?;
        let mut alone = whole;
        if alone && let Some(part) = self.attempt(Self::fraction_of_one) {
            value += part;
            alone = false;
        }
        while let Some(beside) = self.attempt(|s| s.beside(depth)) {
            // `2\frac{1}{2}` is two and a half, `2\frac{\sqrt{3}}{2}` a product.
            if alone && beside.whole {
                value += beside.value;
            } else {
                value *= beside.value;
            }
            alone = false;
        }
        if let Some(divisor) = self.attempt(|s| s.divisor(depth)) {
            value /= divisor;
        }
        if let Some(scale) = self.attempt(|s| s.power_of_ten(depth)) {
            value *= scale;
        }
        if self.percent() {
            value /= 100.0;
        }
        Some(value).filter(|v| v.is_finite())
    }

    fn factor(&mut self, depth: u32) -> Option<Factor> {
        if let Some(literal) = self.attempt(Self::literal) {
            let value = self.powered(literal.value, depth);
            // A power of a whole number takes no fraction beside it.
            return Some(Factor { whole: literal.whole && value == literal.value, value });
        }
        if let Some((above, below)) = self.peek().and_then(vulgar) {
            self.at += 1;
            return Some(Factor { value: above / below, whole: false });
        }
        let factor = self.root_or_fraction(depth)?;
        Some(Factor { value: self.powered(factor.value, depth), whole: false })
    }

    /// A root or a fraction of TeX behind another factor.
    fn beside(&mut self, depth: u32) -> Option<Factor> {
        self.blanks();
        let factor = self.root_or_fraction(depth)?;
        Some(Factor { value: self.powered(factor.value, depth), ..factor })
    }

    fn root_or_fraction(&mut self, depth: u32) -> Option<Factor> {
        match self.root(depth) {
            Some(value) => Some(Factor { value, whole: false }),
            None => self.tex_fraction(depth),
        }
    }

    /// The fraction of a mixed number: `2 1/2`, `2½`.
    fn fraction_of_one(&mut self) -> Option<f64> {
        let spaced = self.peek().is_some_and(is_blank);
        self.blanks();
        if let Some((above, below)) = self.peek().and_then(vulgar) {
            self.at += 1;
            return Some(above / below);
        }
        let above = self.literal().filter(|f| spaced && f.whole)?;
        let below = self.eat("/").then(|| self.literal()).flatten().filter(|f| f.whole)?;
        (above.value < below.value).then(|| above.value / below.value)
    }

    /// Digits, with separators between thousands, a decimal part and an exponent of ten.
    fn literal(&mut self) -> Option<Factor> {
        let mut digits = String::new();
        // What stands behind `x2` in `x2.5` is no number.
        if self.peek() == Some('.') && self.before(self.at).is_some_and(|c| c.is_ascii_digit()) {
            return None;
        }
        self.digits(&mut digits);
        let lead = digits.len();
        if (1..=3).contains(&lead) {
            self.groups(&mut digits);
        }
        let mut whole = true;
        if self.peek() == Some('.') && self.digit(1) {
            whole = false;
            self.at += 1;
            digits.push('.');
            self.digits(&mut digits);
        }
        if matches!(self.peek(), Some('e' | 'E')) && !digits.is_empty() {
            let exponent = self.attempt(Self::exponent);
            whole &= exponent.is_none();
            digits.extend(exponent);
        }
        let value = digits.parse::<f64>().ok().filter(|v| v.is_finite())?;
        Some(Factor { value, whole })
    }

    fn digits(&mut self, into: &mut String) {
        while let Some(c) = self.peek().filter(char::is_ascii_digit) {
            into.push(c);
            self.at += 1;
        }
    }

    /// Groups of three digits behind one kind of separator; with commas also of two, as in 12,34,567.
    fn groups(&mut self, digits: &mut String) {
        let Some(separator) = self.peek().filter(|c| matches!(*c, ',' | ' ' | '\'' | '’' | '_' | THIN)) else {
            return;
        };
        let mut end = self.at;
        let mut found = String::new();
        for _ in 0..MAX_GROUPS {
            if self.text.get(end) != Some(&separator) {
                break;
            }
            let group: String = self.text[end + 1..].iter().take(4).take_while(|c| c.is_ascii_digit()).collect();
            let ends = self.text.get(end + 1 + group.len()) != Some(&separator);
            // A group that is none ends the number before it: `1, 2`, `5 2019`.
            match group.len() {
                3 => {}
                2 if separator == ',' && !ends => {}
                _ => break,
            }
            end += 1 + group.len();
            found.push_str(&group);
            // Only where the last group has three digits is it one number.
            if group.len() == 3 {
                digits.push_str(&std::mem::take(&mut found));
                self.at = end;
            }
        }
    }

    /// `e3`, `E-05`; not the e of a word.
    fn exponent(&mut self) -> Option<String> {
        let mut text = String::from("e");
        self.at += 1;
        if let Some(sign) = self.peek().filter(|c| matches!(c, '+' | '-')) {
            text.push(sign);
            self.at += 1;
        }
        let signs = text.len();
        self.digits(&mut text);
        let good = (1..=3).contains(&(text.len() - signs)) && !self.peek().is_some_and(char::is_alphanumeric);
        good.then_some(text)
    }

    /// The value with the power that stands behind it, if one does.
    fn powered(&mut self, base: f64, depth: u32) -> f64 {
        let power = self.attempt(|s| if s.eat("^") { s.exponent_value(depth) } else { s.superscript() });
        power.map(|p| base.powf(p)).filter(|v| v.is_finite()).unwrap_or(base)
    }

    fn exponent_value(&mut self, depth: u32) -> Option<f64> {
        if self.peek() == Some('{') {
            return self.group(depth);
        }
        let negative = self.eat("-");
        let value = self.literal()?.value;
        Some(if negative { -value } else { value })
    }

    fn superscript(&mut self) -> Option<f64> {
        const SIGNS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
        let negative = self.eat("⁻");
        let mut digits = String::new();
        while let Some(value) = self.peek().and_then(|c| SIGNS.iter().position(|s| *s == c)) {
            digits.extend(char::from_digit(value as u32, 10));
            self.at += 1;
        }
        let value: f64 = digits.parse().ok()?;
        Some(if negative { -value } else { value })
    }

    /// `\sqrt{2}`, `\sqrt[3]{8}`, `\sqrt2`, `√2`, `√(2)`.
    fn root(&mut self, depth: u32) -> Option<f64> {
        self.attempt(|s| {
            if !s.eat("\\sqrt") && !s.eat("√") {
                return None;
            }
            let degree = if s.eat("[") { Some(s.literal()?.value).filter(|_| s.eat("]"))? } else { 2.0 };
            s.blanks();
            let value = match s.peek()? {
                '{' => s.group(depth)?,
                '(' => s.bracket(depth)?,
                _ => s.literal()?.value,
            };
            let root = if degree == 2.0 {
                value.sqrt()
            } else if degree == 3.0 {
                value.cbrt()
            } else {
                value.powf(1.0 / degree)
            };
            Some(root).filter(|v| v.is_finite())
        })
    }

    /// `\frac{3}{4}`, `\frac34`. `whole`: of two whole numbers, the first the smaller one.
    fn tex_fraction(&mut self, depth: u32) -> Option<Factor> {
        self.attempt(|s| {
            if !s.eat("\\frac") {
                return None;
            }
            let start = s.at;
            let (above, below) = (s.argument(depth)?, s.argument(depth).filter(|b| *b != 0.0)?);
            let digits = s.text[start..s.at].iter().all(|c| c.is_ascii_digit() || matches!(c, '{' | '}' | ' '));
            let whole = digits && above < below;
            Some(Factor { value: above / below, whole })
        })
    }

    /// What TeX takes as an argument: braces, or one digit without them.
    fn argument(&mut self, depth: u32) -> Option<f64> {
        self.blanks();
        match self.peek()? {
            '{' => self.group(depth),
            c => {
                self.at += 1;
                c.to_digit(10).map(f64::from)
            }
        }
    }

    /// An expression in braces.
    fn group(&mut self, depth: u32) -> Option<f64> {
        let depth = depth.checked_sub(1)?;
        self.attempt(|s| {
            s.at += 1;
            let value = s.expression(depth)?;
            s.blanks();
            s.eat("}").then_some(value)
        })
    }

    /// What stands behind a slash: `/4`, ` / 4`.
    fn divisor(&mut self, depth: u32) -> Option<f64> {
        self.blanks();
        if !self.eat("/") {
            return None;
        }
        self.blanks();
        self.factor(depth).map(|f| f.value).filter(|v| *v != 0.0)
    }

    /// ` \times 10^3`, `×10³`, ` x 10^3`.
    fn power_of_ten(&mut self, depth: u32) -> Option<f64> {
        self.operator(&["\\times", "\\cdot", "×", "·", "⋅", "*", "x"])?;
        self.blanks();
        if !self.eat("10") {
            return None;
        }
        let start = self.at;
        let value = self.powered(10.0, depth);
        (self.at > start).then_some(value)
    }

    fn percent(&mut self) -> bool {
        let sign = self.attempt(|s| {
            while s.peek().is_some_and(|c| is_blank(c) || c == CURRENCY) {
                s.at += 1;
            }
            s.eat("\\");
            s.eat("%").then_some(())
        });
        sign.is_some()
    }
}

/// Between words of a line.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | THIN)
}

/// A letter of the Latin script: digits behind it belong to its word, other than in scripts that write no blanks.
fn is_latin(c: char) -> bool {
    c.is_ascii_alphabetic() || ('\u{c0}'..='\u{24f}').contains(&c)
}

/// A fraction that is one character: numerator and denominator.
fn vulgar(c: char) -> Option<(f64, f64)> {
    Some(match c {
        '½' => (1.0, 2.0),
        '⅓' => (1.0, 3.0),
        '⅔' => (2.0, 3.0),
        '¼' => (1.0, 4.0),
        '¾' => (3.0, 4.0),
        '⅕' => (1.0, 5.0),
        '⅖' => (2.0, 5.0),
        '⅗' => (3.0, 5.0),
        '⅘' => (4.0, 5.0),
        '⅙' => (1.0, 6.0),
        '⅚' => (5.0, 6.0),
        '⅐' => (1.0, 7.0),
        '⅛' => (1.0, 8.0),
        '⅜' => (3.0, 8.0),
        '⅝' => (5.0, 8.0),
        '⅞' => (7.0, 8.0),
        '⅑' => (1.0, 9.0),
        '⅒' => (1.0, 10.0),
        _ => return None,
    })
}
