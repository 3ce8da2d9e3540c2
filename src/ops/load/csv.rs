//! CSV with a header line, read record by record.

use super::reader::{Body, Cell, Cells, Entry, Fault, Place, RowReader};
use crate::exec::RunError;
use std::borrow::Cow;
use std::io::BufRead;

/// The records of a CSV file.
pub struct Records {
    reader: csv::Reader<Box<dyn BufRead + Send>>,
    header: Vec<String>,
    record: csv::ByteRecord,
    /// A header that cannot be read is the only entry.
    fault: Option<Fault>,
    ended: bool,
}

impl Records {
    pub fn new(input: Box<dyn BufRead + Send>, delimiter: u8) -> Result<Self, RunError> {
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(input);
        let (header, fault) = match reader.byte_headers().map(read_header) {
            Ok(Ok(header)) => (header, None),
            Ok(Err(fault)) => (Vec::new(), Some(fault)),
            Err(error) => (Vec::new(), Some(fault_of(error)?)),
        };
        Ok(Self { reader, header, ended: fault.is_some(), fault, record: csv::ByteRecord::new() })
    }

    /// The field names.
    pub fn header(&self) -> &[String] {
        &self.header
    }
}

fn read_header(record: &csv::ByteRecord) -> Result<Vec<String>, Fault> {
    let mut names: Vec<String> = Vec::with_capacity(record.len());
    for name in record {
        let name = std::str::from_utf8(name)
            .map_err(|_| Fault::new("non-utf8", "the header is not UTF-8").excerpt(record.as_slice()).ending())?
            .trim_start_matches('\u{feff}');
        if names.iter().any(|n| n == name) {
            let message = format!("the header names the column `{name}` twice");
            return Err(Fault::new("bad-header", message).excerpt(record.as_slice()).ending());
        }
        names.push(name.to_string());
    }
    Ok(names)
}

fn fault_of(error: csv::Error) -> Result<Fault, RunError> {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => Fault::of_read(error, &[]),
        other => Ok(Fault::new("malformed-csv", format!("this is no CSV: {other:?}")).ending()),
    }
}

impl RowReader for Records {
    fn next(&mut self) -> Result<Option<Entry<'_>>, RunError> {
        if let Some(fault) = self.fault.take() {
            return Ok(Some(Entry { place: Place::Line(1), body: Err(fault) }));
        }
        if self.ended {
            return Ok(None);
        }
        match self.reader.read_byte_record(&mut self.record) {
            Ok(true) => {}
            Ok(false) => {
                self.ended = true;
                return Ok(None);
            }
            Err(error) => {
                self.ended = true;
                let place = Place::Line(self.reader.position().line());
                return Ok(Some(Entry { place, body: Err(fault_of(error)?) }));
            }
        }
        let place = Place::Line(self.record.position().map_or(0, csv::Position::line));
        let body = Body::Csv { header: &self.header, record: &self.record };
        if self.record.len() == self.header.len() {
            return Ok(Some(Entry { place, body: Ok(body) }));
        }
        let message = format!("expected {} fields as in the header, found {}", self.header.len(), self.record.len());
        let fault = Fault { row: body.to_json(), ..Fault::new("ragged-row", message) };
        Ok(Some(Entry { place, body: Err(fault) }))
    }
}

/// The cells of a record. An empty field is null.
pub fn cells<'a>(header: &'a [String], record: &'a csv::ByteRecord) -> Result<Cells<'a>, Fault> {
    let cell = |(name, bytes): (&'a String, &'a [u8])| {
        let text = std::str::from_utf8(bytes).map_err(|_| {
            let row = Body::Csv { header, record }.to_json();
            Fault { row, ..Fault::new("non-utf8", format!("expected UTF-8 text in field `{name}`, found other bytes")) }
        })?;
        let value = if text.is_empty() { Cell::Null } else { Cell::Untyped(text) };
        Ok((Cow::Borrowed(name.as_str()), value))
    };
    header.iter().zip(record.iter()).map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn outline(bytes: &[u8]) -> Vec<String> {
        let mut reader = Records::new(Box::new(Cursor::new(bytes.to_vec())), b',').unwrap();
        let mut all = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            let shown = match entry.body.and_then(|b| b.cells().map(|c| format!("{c:?}"))) {
                Ok(cells) => cells,
                Err(fault) => format!("{}: {}", fault.reason, fault.message),
            };
            all.push(format!("{} {shown}", entry.place.within("f")));
        }
        all
    }

    #[test]
    fn records_have_lines_and_ragged_ones_go_alone() {
        let text = b"\xef\xbb\xbfa,b\n1,\"x\ny\"\n2\n3,\xff\n4,\n";
        assert_eq!(
            outline(text),
            [
                r#"f:2 [("a", Untyped("1")), ("b", Untyped("x\ny"))]"#,
                "f:4 ragged-row: expected 2 fields as in the header, found 1",
                "f:5 non-utf8: expected UTF-8 text in field `b`, found other bytes",
                r#"f:6 [("a", Untyped("4")), ("b", Null)]"#,
            ]
        );
    }

    #[test]
    fn a_bad_header_is_the_only_entry() {
        assert_eq!(outline(b"a,a\n1,2\n"), ["f:1 bad-header: the header names the column `a` twice"]);
        assert_eq!(outline(b""), Vec::<String>::new());
    }
}
