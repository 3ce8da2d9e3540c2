//! What stands on the page, before it is markup.

use serde::Serialize;

/// The page of a run.
#[derive(Debug, Serialize)]
pub struct Page {
    pub pipeline: String,
    pub doc: String,
    pub outcome: Outcome,
    pub started: String,
    pub took: String,
    pub idiolect: String,
    pub facts: Vec<Fact>,
    pub problems: Vec<Problem>,
    /// An SVG element of our own making.
    pub graph_svg: String,
    /// Why there is no graph.
    pub graph_note: Option<String>,
    pub results: Vec<Shown>,
    pub curves: Vec<Shown>,
    pub groups: Vec<Group>,
    pub quarantine: Quarantine,
    pub files: Vec<FileRow>,
    pub setup: Setup,
}

/// How the run ended.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// A class for its colour: `good`, `warn` or `bad`.
    pub tone: &'static str,
    pub text: String,
}

/// A number worth seeing first.
#[derive(Debug, Serialize)]
pub struct Fact {
    pub label: &'static str,
    pub value: String,
    pub tone: &'static str,
}

/// Something that went wrong.
#[derive(Debug, Serialize)]
pub struct Problem {
    pub node: String,
    pub anchor: String,
    pub code: String,
    pub message: Text,
    pub help: Option<Text>,
}

/// A text, cut where it is long.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Text {
    pub start: String,
    /// What a click shows.
    pub rest: String,
    pub rest_chars: String,
    /// Characters that are not on the page.
    pub cut: String,
}

/// A table or a picture that a node showed.
#[derive(Debug, Default, Serialize)]
pub struct Shown {
    pub id: String,
    pub node: String,
    pub anchor: String,
    pub title: String,
    pub doc: String,
    pub tables: Vec<Table>,
    pub pictures: Vec<Picture>,
    /// Text that the node printed, where there is nothing better.
    pub printed: Option<Text>,
    /// What is not on the page.
    pub remark: String,
    pub files: Vec<Link>,
}

/// A picture inside the page.
#[derive(Debug, Serialize)]
pub struct Picture {
    pub uri: String,
    pub alt: String,
}

/// A table of texts.
#[derive(Debug, Default, Serialize)]
pub struct Table {
    pub caption: String,
    pub heads: Vec<TableHead>,
    pub rows: Vec<Vec<TableCell>>,
    pub remarks: Vec<String>,
    /// Rows that are not on the page.
    pub more: String,
}

#[derive(Debug, Serialize)]
pub struct TableHead {
    pub label: String,
    pub number: bool,
}

#[derive(Debug, Default, Serialize)]
pub struct TableCell {
    pub text: Text,
    pub number: bool,
    pub missing: bool,
    /// Far behind the best: underlined.
    pub behind: bool,
    /// Stars and the number of a note.
    pub raised: String,
}

/// A node of the file with all its instances.
#[derive(Debug, Serialize)]
pub struct Group {
    pub id: String,
    pub name: String,
    pub op: String,
    pub summary: String,
    pub doc: String,
    pub state: &'static str,
    pub state_text: String,
    pub time: String,
    pub axes: Vec<String>,
    /// What is counted of an instance, where any instance has it.
    pub measures: Vec<&'static str>,
    pub instances: Vec<Instance>,
    /// Instances that are not on the page.
    pub more: String,
    pub outputs: Vec<Schema>,
    /// Of the first instances.
    pub details: Vec<Detail>,
    pub undetailed: String,
    pub samples: Vec<Sample>,
}

/// One line of a group's table.
#[derive(Debug, Serialize)]
pub struct Instance {
    pub id: String,
    pub name: String,
    pub values: Vec<String>,
    pub state: &'static str,
    pub state_text: String,
    /// One for each of the group's.
    pub measures: Vec<String>,
    pub fingerprint: String,
}

/// The columns of an output.
#[derive(Debug, Serialize)]
pub struct Schema {
    pub name: String,
    pub rows: String,
    pub columns: Vec<[String; 2]>,
}

/// What an instance was made of.
#[derive(Debug, Serialize)]
pub struct Detail {
    pub name: String,
    pub fingerprint: String,
    pub why: Vec<String>,
    pub made: String,
    pub seed: String,
    pub config: String,
    pub ingredients: Vec<[String; 2]>,
    pub inputs: Vec<InputRow>,
}

#[derive(Debug, Serialize)]
pub struct InputRow {
    pub port: String,
    pub node: String,
    pub anchor: String,
    pub output: String,
    pub fingerprint: String,
}

/// Rows of one output of one instance.
#[derive(Debug, Default, Serialize)]
pub struct Sample {
    pub title: String,
    /// Rows without ids, as a table.
    pub table: Option<Table>,
    pub rows: Vec<SampleRow>,
    /// Why there are none.
    pub note: String,
}

/// A row and the rows that it was made from.
#[derive(Debug, Serialize)]
pub struct SampleRow {
    pub id: String,
    pub row: String,
    pub place: String,
    pub cells: Vec<Cell>,
    /// From the source to the last node before this one.
    pub lineage: Vec<Step>,
    pub lineage_more: String,
}

/// One node's row on the way.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    pub node: String,
    pub anchor: String,
    pub op: String,
    pub row: String,
    /// Columns that are new or have changed since the step before.
    pub cells: Vec<Cell>,
    pub unchanged: String,
}

/// One value of a row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cell {
    pub column: String,
    pub text: Text,
    pub missing: bool,
    /// Shown as a block.
    pub long: bool,
}

#[derive(Debug, Default, Serialize)]
pub struct Quarantine {
    pub total: String,
    pub reasons: Vec<Reason>,
    pub more: String,
}

/// Rows that left for one reason at one node.
#[derive(Debug, Serialize)]
pub struct Reason {
    pub node: String,
    pub anchor: String,
    pub reason: String,
    pub count: String,
    pub share: String,
    pub beyond: bool,
    pub examples: Vec<Example>,
}

#[derive(Debug, Serialize)]
pub struct Example {
    pub row: String,
    pub message: Text,
    pub content: Text,
}

/// A file in the run folder.
#[derive(Debug, Serialize)]
pub struct FileRow {
    pub link: Link,
    pub node: String,
    pub anchor: String,
    pub size: String,
}

/// A name, and where it leads.
#[derive(Debug, Clone, Serialize)]
pub struct Link {
    pub text: String,
    /// Empty where the page does not lie beside what it names.
    pub href: String,
}

/// Configuration and versions.
#[derive(Debug, Default, Serialize)]
pub struct Setup {
    pub params: Table,
    pub options: Table,
    pub models: Table,
    pub teachers: Table,
    pub versions: Table,
    pub operators: Table,
    pub texts: Vec<NamedText>,
}

#[derive(Debug, Serialize)]
pub struct NamedText {
    pub name: String,
    pub text: Text,
}
