//! Where values lie in a JSON text, so that a file can be changed without touching the rest of it.
//!
//! The text must have been parsed as JSON before: this looks for ends, it does not validate. On other text the answers
//! are merely useless.

use std::ops::Range;

/// The value of the last member named `key` of the object that starts at `object`. The last, as Go and serde take it.
pub(crate) fn member(text: &str, object: usize, key: &str) -> Option<Range<usize>> {
    let mut found = None;
    let mut items = Items::of(text, object, b'{')?;
    while let Some(name) = items.next_value() {
        let value_start = skip_space(text, skip_space(text, name.end) + 1);
        let value = value_start..value_end(text, value_start);
        items.resume_at(value.end);
        if serde_json::from_str::<String>(text.get(name)?).is_ok_and(|name| name == key) {
            found = Some(value);
        }
    }
    found
}

/// The elements of the array that starts at `array`.
pub(crate) fn elements(text: &str, array: usize) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    if let Some(mut items) = Items::of(text, array, b'[') {
        while let Some(value) = items.next_value() {
            found.push(value);
        }
    }
    found
}

/// First byte at or after `at` that is no white space.
pub(crate) fn skip_space(text: &str, at: usize) -> usize {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let rest = text.as_bytes().get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| blank(byte)).count()
}

/// Walks what commas separate.
struct Items<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Items<'a> {
    fn of(text: &'a str, start: usize, open: u8) -> Option<Self> {
        (text.as_bytes().get(start) == Some(&open)).then_some(Self { text, at: start + 1 })
    }

    fn next_value(&mut self) -> Option<Range<usize>> {
        let mut start = skip_space(self.text, self.at);
        if self.text.as_bytes().get(start) == Some(&b',') {
            start = skip_space(self.text, start + 1);
        }
        match self.text.as_bytes().get(start) {
            None | Some(b']' | b'}') => None,
            Some(_) => {
                let value = start..value_end(self.text, start);
                self.at = value.end;
                Some(value)
            }
        }
    }

    fn resume_at(&mut self, at: usize) {
        self.at = at;
    }
}

/// One past the end of the value that starts at `start`; always past `start`.
fn value_end(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let end = match bytes.get(start) {
        Some(b'"') => string_end(bytes, start),
        Some(b'{' | b'[') => nested_end(bytes, start),
        _ => {
            let delimiter =
                |byte: &u8| matches!(byte, b',' | b':' | b']' | b'}') || byte.is_ascii_whitespace();
            let rest = bytes.get(start..).unwrap_or_default();
            start + rest.iter().take_while(|byte| !delimiter(byte)).count()
        }
    };
    end.max(start + 1)
}

fn nested_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0usize;
    let mut at = start;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = string_end(bytes, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth <= 1 => return at + 1,
            b'}' | b']' => depth -= 1,
            _ => (),
        }
        at += 1;
    }
    bytes.len()
}

fn string_end(bytes: &[u8], quote: usize) -> usize {
    let mut at = quote + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_whatever_the_layout() {
        let text = "{ \"a\\\"]\" : [1,{\"plugins\":[]} , \"x,]\",-1.5e3,null ],\n\t\"plugins\":[true]}";
        let a = member(text, 0, "a\"]").unwrap();
        let parts: Vec<&str> = elements(text, a.start)
            .into_iter()
            .map(|range| &text[range])
            .collect();
        assert_eq!(parts, ["1", "{\"plugins\":[]}", "\"x,]\"", "-1.5e3", "null"]);
        assert_eq!(&text[member(text, 0, "plugins").unwrap()], "[true]");
        assert_eq!(member(text, 0, "name"), None);
    }

    #[test]
    fn of_two_members_with_one_name_the_last_counts() {
        let text = r#"{"a":1,"\u0061":2}"#;
        assert_eq!(&text[member(text, 0, "a").unwrap()], "2");
    }

    #[test]
    fn text_that_is_cut_short_ends_the_search() {
        let whole = r#"{"a":[1,{"b":"c\""}],"d":2}"#;
        for end in 0..whole.len() {
            let cut = &whole[..end];
            let _ = member(cut, 0, "d");
            let _ = elements(cut, 5);
        }
    }
}
