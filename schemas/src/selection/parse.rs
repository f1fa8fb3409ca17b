//! Text to [`Selection`].

use super::{
    Alternative, Key, MAX_ALTERNATIVES, Range, Selection, SelectionError, SelectionProblem, Term, Values,
};
use std::ops;

pub(super) fn selection(text: &str) -> Result<Selection, SelectionError> {
    let mut parser = Parser { text, at: 0 };
    parser.selection().map_err(|(place, problem)| SelectionError {
        expression: text.to_owned(),
        place,
        problem,
    })
}

/// A place in bytes, and what is wrong there.
type Fault = (ops::Range<usize>, SelectionProblem);

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

/// Whether a key or a number ends at this character.
fn ends_word(c: char) -> bool {
    c.is_whitespace() || ",;|=!-".contains(c)
}

fn in_pattern(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-.*?".contains(c)
}

impl<'a> Parser<'a> {
    fn selection(&mut self) -> Result<Selection, Fault> {
        if self.text.trim().is_empty() {
            let alternatives = vec![Alternative::everything()];
            return Ok(Selection { alternatives });
        }
        let mut alternatives = Vec::new();
        loop {
            self.blanks();
            let start = self.at;
            let terms = self.terms()?;
            let place = start..self.text[..self.at].trim_end().len();
            if alternatives.len() == MAX_ALTERNATIVES {
                return Err((place, SelectionProblem::TooManyAlternatives));
            }
            let alternative = Alternative::new(terms);
            alternatives.push(alternative.map_err(|key| (place, SelectionProblem::Contradiction(key)))?);
            if !self.eat(";") {
                return Ok(Selection { alternatives });
            }
        }
    }

    /// The terms of an alternative, up to its `;` or the end.
    fn terms(&mut self) -> Result<Vec<Term>, Fault> {
        let mut terms = Vec::new();
        if matches!(self.peek(), None | Some(';')) {
            return Err(self.here(SelectionProblem::EmptyAlternative));
        }
        loop {
            terms.push(self.term()?);
            match self.peek() {
                None | Some(';') => return Ok(terms),
                Some(',') => self.eat(","),
                Some(_) => return Err(self.token(self.at, SelectionProblem::Unexpected)),
            };
        }
    }

    fn term(&mut self) -> Result<Term, Fault> {
        self.blanks();
        if matches!(self.peek(), None | Some(',' | ';')) {
            return Err(self.here(SelectionProblem::EmptyTerm));
        }
        let start = self.at;
        let word = self.take(|c| !ends_word(c));
        let key = match Key::ALL.iter().find(|key| key.name() == word) {
            Some(&key) => key,
            None if word.is_empty() => return Err(self.token(start, SelectionProblem::MissingKey)),
            None => return Err((start..self.at, SelectionProblem::UnknownKey)),
        };
        self.blanks();
        let excludes = self.eat("!=");
        if !excludes && !self.eat("=") {
            return Err(self.token(self.at, SelectionProblem::MissingOperator(key)));
        }
        let values = match key {
            Key::Stage => Values::Patterns(self.list(key, |parser| parser.pattern())?),
            _ => Values::Numbers(self.list(key, |parser| parser.range(key))?),
        };
        Ok(Term {
            key,
            excludes,
            values,
        })
    }

    /// Values with `|` between them, and the blanks behind the last.
    fn list<T>(&mut self, key: Key, value: impl Fn(&mut Self) -> Result<T, Fault>) -> Result<Vec<T>, Fault> {
        let mut values = Vec::new();
        loop {
            self.blanks();
            match self.peek() {
                None | Some(',' | ';' | '|') => {
                    return Err(self.here(SelectionProblem::MissingValue(key)));
                }
                Some('!') => return Err(self.token(self.at, SelectionProblem::NegatedValue(key))),
                Some(_) => values.push(value(self)?),
            }
            self.blanks();
            if !self.eat("|") {
                return Ok(values);
            }
        }
    }

    fn pattern(&mut self) -> Result<String, Fault> {
        let pattern = self.take(in_pattern);
        match self.peek() {
            Some(c) if !c.is_whitespace() && !",;|".contains(c) => {
                Err((self.at..self.at + c.len_utf8(), SelectionProblem::StageCharacter))
            }
            _ => Ok(pattern.to_owned()),
        }
    }

    fn range(&mut self, key: Key) -> Result<Range, Fault> {
        let start = self.at;
        let first = self.number(key)?;
        let behind = self.at;
        self.blanks();
        if !self.eat("-") {
            self.at = behind;
            return Ok(Range {
                first,
                last: Some(first),
            });
        }
        self.blanks();
        let last = match self.peek() {
            Some('-') => return Err(self.token(start, SelectionProblem::NegativeRange)),
            None | Some(',' | ';' | '|') => None,
            Some(_) => Some(self.number(key)?),
        };
        let problem = match last {
            _ if first < 0 => SelectionProblem::NegativeRange,
            Some(last) if last < first => SelectionProblem::ReversedRange,
            _ => return Ok(Range { first, last }),
        };
        Err((start..self.text[..self.at].trim_end().len(), problem))
    }

    fn number(&mut self, key: Key) -> Result<i64, Fault> {
        let start = self.at;
        let below = self.eat("-");
        let digits = self.take(|c| !ends_word(c));
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(self.token(start, SelectionProblem::NotANumber(key)));
        }
        let (least, most) = key.bounds();
        let number: Option<i64> = digits.parse().ok();
        number
            .map(|n| if below { -n } else { n })
            .filter(|n| (least..=most).contains(n))
            .ok_or((start..self.at, SelectionProblem::OutOfRange(key)))
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.text[self.at..].starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let taken = &rest[..rest.find(|c| !wanted(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    fn blanks(&mut self) {
        self.take(char::is_whitespace);
    }

    /// Something is missing here.
    fn here(&self, problem: SelectionProblem) -> Fault {
        (self.at..self.at, problem)
    }

    /// A problem with what stands from `start` on, up to a blank or to what divides an expression.
    fn token(&self, start: usize, problem: SelectionProblem) -> Fault {
        let rest = &self.text[start..];
        let ends = |c: char| c.is_whitespace() || ",;|".contains(c);
        let length = match rest.find(ends) {
            // what divides is itself the bad token
            Some(0) if !rest.starts_with(char::is_whitespace) => 1,
            Some(length) => length,
            None => rest.len(),
        };
        (start..start + length, problem)
    }
}
