//! JSON read row by row: arrays of objects, objects one after another, and one object on each line.
//!
//! Only the row at hand is in memory. A row that is no JSON is told from a file that is cut short: the first
//! goes to quarantine by itself, the second ends the file.

use super::files::is_damage;
use super::reader::{Body, Cell, Cells, Entry, Fault, MAX_ROW_BYTES, Place, RowReader};
use crate::exec::RunError;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufRead, Read};

/// What a byte order mark is in UTF-8. Editors on some systems write one.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// One object on each line; blank lines do not count.
pub struct Lines {
    input: Box<dyn BufRead + Send>,
    line: u64,
    bytes: Vec<u8>,
    ended: bool,
}

impl Lines {
    pub fn new(input: Box<dyn BufRead + Send>) -> Self {
        Self { input, line: 0, bytes: Vec::new(), ended: false }
    }

    /// Reads to the end of the line; false at the end of the file.
    fn read_line(&mut self) -> io::Result<bool> {
        self.bytes.clear();
        let limit = MAX_ROW_BYTES as u64 + 1;
        self.input.by_ref().take(limit).read_until(b'\n', &mut self.bytes)?;
        self.line += 1;
        if self.bytes.len() as u64 == limit {
            self.skip_line()?;
        }
        if self.line == 1 && self.bytes.starts_with(BOM) {
            self.bytes.drain(..BOM.len());
        }
        let read = !self.bytes.is_empty();
        let end = self.bytes.trim_ascii_end().len();
        self.bytes.truncate(end);
        Ok(read)
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let chunk = self.input.fill_buf()?;
            let (used, found) = match chunk.iter().position(|b| *b == b'\n') {
                Some(at) => (at + 1, true),
                None => (chunk.len(), chunk.is_empty()),
            };
            self.input.consume(used);
            if found {
                return Ok(());
            }
        }
    }
}

impl RowReader for Lines {
    fn next(&mut self) -> Result<Option<Entry<'_>>, RunError> {
        while !self.ended {
            match self.read_line() {
                Ok(false) => self.ended = true,
                Ok(true) if self.bytes.is_empty() => {}
                Ok(true) if self.bytes.len() > MAX_ROW_BYTES => {
                    let fault = Fault::too_large(&self.bytes);
                    return Ok(Some(Entry { place: Place::Line(self.line), body: Err(fault) }));
                }
                Ok(true) => {
                    return Ok(Some(Entry { place: Place::Line(self.line), body: Ok(Body::Json(&self.bytes)) }));
                }
                Err(error) => {
                    self.ended = true;
                    let fault = Fault::of_read(error, &self.bytes)?;
                    return Ok(Some(Entry { place: Place::Line(self.line + 1), body: Err(fault) }));
                }
            }
        }
        Ok(None)
    }
}

/// The elements of one array, or values one after another.
pub struct Elements {
    input: Box<dyn BufRead + Send>,
    /// Of the element at hand, from 0.
    index: u64,
    /// Of the byte at hand.
    offset: u64,
    started: bool,
    in_array: bool,
    ended: bool,
    bytes: Vec<u8>,
}

/// How reading an element ended.
enum Scan {
    Element,
    TooLarge,
    End,
    Broken(Fault),
}

impl Elements {
    pub fn new(input: Box<dyn BufRead + Send>) -> Self {
        let bytes = Vec::new();
        Self { input, index: 0, offset: 0, started: false, in_array: false, ended: false, bytes }
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.input.fill_buf()?.first().copied())
    }

    fn skip(&mut self, bytes: usize) {
        self.input.consume(bytes);
        self.offset += bytes as u64;
    }

    /// The next byte that is no white space (nor, between elements, a comma), not yet taken.
    fn next_token(&mut self) -> io::Result<Option<u8>> {
        while let Some(byte) = self.peek()? {
            let between = byte.is_ascii_whitespace() || (byte == b',' && self.in_array && self.index > 0);
            if !between {
                return Ok(Some(byte));
            }
            self.skip(1);
        }
        Ok(None)
    }

    fn start(&mut self) -> io::Result<()> {
        self.started = true;
        let marks = self.input.fill_buf()?.starts_with(BOM);
        self.skip(if marks { BOM.len() } else { 0 });
        if self.next_token()? == Some(b'[') {
            self.in_array = true;
            self.skip(1);
        }
        Ok(())
    }

    fn scan(&mut self) -> io::Result<Scan> {
        if !self.started {
            self.start()?;
        }
        self.bytes.clear();
        match self.next_token()? {
            None if self.in_array => Ok(Scan::Broken(self.cut_short("the array is not closed"))),
            None => Ok(Scan::End),
            Some(b']') if self.in_array => {
                self.skip(1);
                self.in_array = false;
                match self.next_token()? {
                    None => Ok(Scan::End),
                    Some(_) => Ok(Scan::Broken(self.broken("there is more text after the end of the array"))),
                }
            }
            Some(b'}' | b']' | b',' | b':') => Ok(Scan::Broken(self.broken("expected an object"))),
            Some(b'{' | b'[') => self.scan_nested(),
            Some(_) => self.scan_scalar(),
        }
    }

    /// Takes an object or array with everything inside it.
    fn scan_nested(&mut self) -> io::Result<Scan> {
        let (mut depth, mut in_text, mut escaped) = (0u32, false, false);
        loop {
            let chunk = self.input.fill_buf()?;
            if chunk.is_empty() {
                return Ok(Scan::Broken(self.cut_short("the file ends inside it")));
            }
            let mut used = 0;
            let mut closed = false;
            for byte in chunk {
                used += 1;
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if in_text => escaped = true,
                    b'"' => in_text = !in_text,
                    b'{' | b'[' if !in_text => depth += 1,
                    b'}' | b']' if !in_text => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    closed = true;
                    break;
                }
            }
            let room = (MAX_ROW_BYTES + 1).saturating_sub(self.bytes.len()).min(used);
            self.bytes.extend_from_slice(&chunk[..room]);
            self.skip(used);
            if closed {
                return Ok(if self.bytes.len() > MAX_ROW_BYTES { Scan::TooLarge } else { Scan::Element });
            }
        }
    }

    /// Takes a text, number or word, up to the next separator.
    fn scan_scalar(&mut self) -> io::Result<Scan> {
        let (mut in_text, mut escaped) = (false, false);
        while let Some(byte) = self.peek()? {
            let separates = byte.is_ascii_whitespace() || matches!(byte, b',' | b']' | b'}' | b'{' | b'[');
            if !in_text && separates {
                return Ok(Scan::Element);
            }
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_text => escaped = true,
                b'"' => in_text = !in_text,
                _ => {}
            }
            if self.bytes.len() <= MAX_ROW_BYTES {
                self.bytes.push(byte);
            }
            self.skip(1);
        }
        Ok(if in_text { Scan::Broken(self.cut_short("the file ends inside it")) } else { Scan::Element })
    }

    fn cut_short(&self, what: &str) -> Fault {
        let message = format!("the file is cut short at byte {}: {what}", self.offset);
        Fault::new("truncated", message).excerpt(&self.bytes).ending()
    }

    fn broken(&self, what: &str) -> Fault {
        Fault::new("malformed-json", format!("the JSON breaks at byte {}: {what}", self.offset)).ending()
    }
}

impl RowReader for Elements {
    fn next(&mut self) -> Result<Option<Entry<'_>>, RunError> {
        if self.ended {
            return Ok(None);
        }
        let scan = match self.scan() {
            Ok(scan) => scan,
            Err(error) => Scan::Broken(Fault::of_read(error, &self.bytes)?),
        };
        let place = Place::Index(self.index);
        self.index += 1;
        let body = match scan {
            Scan::Element => Ok(Body::Json(&self.bytes)),
            Scan::TooLarge => Err(Fault::too_large(&self.bytes)),
            Scan::Broken(fault) => {
                self.ended = true;
                Err(fault)
            }
            Scan::End => {
                self.ended = true;
                return Ok(None);
            }
        };
        Ok(Some(Entry { place, body }))
    }
}

impl Fault {
    /// An error of reading: a fault of the file where its compressed bytes are damaged, otherwise of the run.
    pub fn of_read(error: io::Error, bytes: &[u8]) -> Result<Self, RunError> {
        if !is_damage(&error) {
            return Err(RunError::failed("file-unreadable", format!("reading failed: {error}")));
        }
        let message = format!("the compressed file is cut short or damaged here: {error}");
        Ok(Self::new("truncated", message).excerpt(bytes).ending())
    }

    fn too_large(bytes: &[u8]) -> Self {
        let limit = crate::size::show(MAX_ROW_BYTES as u64);
        Self::new("row-too-large", format!("a row may have at most {limit}")).excerpt(&bytes[..bytes.len().min(1024)])
    }
}

/// The cells of one JSON object.
pub fn cells(bytes: &[u8]) -> Result<Cells<'_>, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let message = format!("expected UTF-8 text, found other bytes from byte {} of the row", error.valid_up_to());
        Fault::new("non-utf8", message).excerpt(bytes)
    })?;
    match serde_json::from_str::<Object>(text) {
        Ok(object) => Ok(object.0),
        Err(error) if error.is_eof() => {
            Err(Fault::new("truncated", format!("the row is cut short: {}", plain(&error))).excerpt(bytes))
        }
        Err(error) if error.is_data() => {
            Err(Fault::new("not-an-object", format!("expected a JSON object: {}", plain(&error))).excerpt(bytes))
        }
        Err(error) => Err(Fault::new("malformed-json", format!("this is no JSON: {}", plain(&error))).excerpt(bytes)),
    }
}

/// The message with its column, without the line that means nothing inside a row.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" at line ").unwrap_or(text.len());
    format!("{} (byte {})", &text[..end], error.column())
}

/// A JSON object as a list of cells that borrow from the text where they can.
struct Object<'a>(Cells<'a>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut cells = Vec::with_capacity(16);
                while let Some(Text(name)) = map.next_key()? {
                    cells.push((name, map.next_value::<Cell<'de>>()?));
                }
                Ok(Object(cells))
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

/// A string that borrows where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(v)))
            }
            fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(v.to_string())))
            }
        }
        deserializer.deserialize_str(Visit)
    }
}

impl<'de> Deserialize<'de> for Cell<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Cell<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Cell::Null)
            }
            fn visit_bool<E>(self, v: bool) -> Result<Self::Value, E> {
                Ok(Cell::Bool(v))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Self::Value, E> {
                Ok(Cell::Int(v))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Self::Value, E> {
                Ok(i64::try_from(v).map_or_else(|_| Cell::Nested(v.into()), Cell::Int))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Self::Value, E> {
                Ok(Cell::Float(v))
            }
            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
                Ok(Cell::Text(Cow::Borrowed(v)))
            }
            fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
                Ok(Cell::Text(Cow::Owned(v.to_string())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element::<Value>()? {
                    items.push(item);
                }
                Ok(Cell::list(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Value::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Cell::Nested)
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{BufReader, Cursor};

    /// Every entry: its place, and its cells or the reason why there are none.
    fn read(mut reader: impl RowReader) -> Vec<(String, Result<String, &'static str>)> {
        let mut all = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            let place = entry.place.within("f");
            let row = entry.body.and_then(|body| body.cells().map(|c| format!("{c:?}")));
            all.push((place, row.map_err(|f| f.reason)));
        }
        all
    }

    fn input(bytes: &[u8], chunk: usize) -> Box<dyn BufRead + Send> {
        Box::new(BufReader::with_capacity(chunk.max(1), Cursor::new(bytes.to_vec())))
    }

    fn outline(rows: Vec<(String, Result<String, &'static str>)>) -> Vec<String> {
        rows.into_iter().map(|(place, row)| format!("{place} {}", row.err().unwrap_or("ok"))).collect()
    }

    #[test]
    fn arrays_are_read_element_by_element() {
        let text = br#" [ {"a": "]}\"{", "b": [1, {"c": 2}]} , {"a": null}
            ] "#;
        for chunk in [1, 2, 7, 4096] {
            let rows = read(Elements::new(input(text, chunk)));
            assert_eq!(rows.len(), 2);
            assert_eq!(rows[0].0, "f#0");
            assert_eq!(
                rows[0].1.as_deref(),
                Ok(r#"[("a", Text("]}\"{")), ("b", Nested(Array [Number(1), Object {"c": Number(2)}]))]"#)
            );
            assert_eq!(rows[1].1.as_deref(), Ok(r#"[("a", Null)]"#));
        }
    }

    #[test]
    fn a_cut_array_gives_all_before_the_cut_and_one_fault() {
        for (text, expected) in [
            (&br#"[{"a":1},{"a":2},{"a":"x"#[..], vec!["f#0 ok", "f#1 ok", "f#2 truncated"]),
            (br#"[{"a":1},{"a":2}"#, vec!["f#0 ok", "f#1 ok", "f#2 truncated"]),
            (br#"[{"a":1}] {"b":2}"#, vec!["f#0 ok", "f#1 malformed-json"]),
            (br#"[{"a":1}, }, {"a":2}]"#, vec!["f#0 ok", "f#1 malformed-json"]),
            (b"[", vec!["f#0 truncated"]),
            (b"", vec![]),
            (b"[]", vec![]),
        ] {
            assert_eq!(outline(read(Elements::new(input(text, 5)))), expected, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn a_bad_element_goes_alone() {
        let text = br#"[{"a":1}, 5, "x, ]", {"a" 2}, {"a":3]"#;
        let expected = ["f#0 ok", "f#1 not-an-object", "f#2 not-an-object", "f#3 malformed-json", "f#4 malformed-json"];
        assert_eq!(outline(read(Elements::new(input(text, 64))))[..5], expected);
    }

    #[test]
    fn values_one_after_another_need_no_array() {
        let text = b"\xef\xbb\xbf{\"a\":1}\n\n{\n\"a\":2}{\"a\":3}";
        assert_eq!(outline(read(Elements::new(input(text, 3)))), ["f#0 ok", "f#1 ok", "f#2 ok"]);
    }

    #[test]
    fn lines_know_their_numbers() {
        let text = b"\xef\xbb\xbf{\"a\":1}\r\n\n{\"a\":\xff}\nnot json\n{\"a\":";
        let expected = ["f:1 ok", "f:3 non-utf8", "f:4 malformed-json", "f:5 truncated"];
        assert_eq!(outline(read(Lines::new(input(text, 4)))), expected);
    }

    #[test]
    fn damaged_compression_ends_the_file_with_one_fault() {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        for i in 0..1000 {
            writeln!(encoder, "{{\"a\":{i}}}").unwrap();
        }
        let mut bytes = encoder.finish().unwrap();
        bytes.truncate(bytes.len() / 2);
        let decoder = BufReader::new(flate2::bufread::MultiGzDecoder::new(Cursor::new(bytes)));
        let rows = outline(read(Lines::new(Box::new(decoder))));
        assert!(rows.len() > 100 && rows.len() < 1000, "{}", rows.len());
        assert_eq!(rows.iter().filter(|r| r.ends_with("truncated")).count(), 1);
        assert!(rows.last().unwrap().ends_with("truncated"));
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_end(bytes in prop::collection::vec(prop_oneof![Just(b'{'), Just(b'}'), Just(b'['), Just(b']'), Just(b'"'), Just(b'\\'), Just(b','), any::<u8>()], 0..200)) {
            let rows = read(Elements::new(input(&bytes, 3)));
            prop_assert!(rows.len() <= bytes.len() + 1);
            read(Lines::new(input(&bytes, 3)));
        }

        #[test]
        fn any_text_survives(texts in prop::collection::vec(any::<String>(), 0..20), chunk in 1usize..40) {
            let array: Value = texts.iter().map(|t| serde_json::json!({ "t": t })).collect();
            let bytes = array.to_string().into_bytes();
            let mut reader = Elements::new(input(&bytes, chunk));
            let mut back = Vec::new();
            while let Some(entry) = reader.next().unwrap() {
                let body = entry.body.unwrap();
                let cells = body.cells().unwrap();
                let Cell::Text(text) = &cells[0].1 else { panic!("a text") };
                back.push(text.to_string());
            }
            prop_assert_eq!(back, texts);
        }
    }
}
