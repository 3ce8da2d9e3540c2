//! Samples of rows, and for each the rows of earlier nodes that it was made from.

use super::model::{Cell, Sample, SampleRow, Step};
use super::run::{Run, unreadable};
use super::text::{cell, clean, table};
use crate::exec::RunError;
use crate::ops::rows::{ID, cell_shown};
use crate::report::grid::{Format, Grid};
use crate::report::words::number;
use crate::store::Artifact;
use arrow::array::RecordBatch;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Instances of a sweep that give samples.
const INSTANCES: usize = 3;
/// Instances of one swept node in a row's lineage, and steps in all; what is left out is counted.
const SAME_NODE: usize = 3;
const STEPS: usize = 16;

/// An output of a node: the node's place in the plan and the output's among its outputs.
type Place = (usize, usize);

/// A row as it was found.
#[derive(Debug, Clone)]
struct Row {
    position: u64,
    cells: Vec<(String, Value)>,
}

impl Row {
    fn get(&self, column: &str) -> Option<&str> {
        self.cells.iter().find(|(name, _)| name == column).and_then(|(_, value)| value.as_str())
    }
}

/// The rows sampled from one output.
struct Sampled {
    place: Place,
    rows: Vec<Row>,
}

/// What an output gives to a page.
enum Taken {
    /// Rows with ids, which can be followed.
    Rows(Sampled),
    /// A table of rows without ids, or why there is none.
    Ready(Sample),
}

/// Samples of every group, in the order of the groups.
pub fn samples(run: &Run<'_>, wanted: usize) -> Vec<Vec<Sample>> {
    let of_group =
        |instances: &Vec<usize>| spread(instances).into_iter().flat_map(|node| take(run, node, wanted)).collect();
    let taken: Vec<Vec<Taken>> = run.groups.values().map(of_group).collect();
    let sampled = taken.iter().flatten().filter_map(|taken| match taken {
        Taken::Rows(sampled) => Some(sampled),
        Taken::Ready(_) => None,
    });
    let found = look_up(run, sampled);
    let told = |taken: Taken| match taken {
        Taken::Rows(sampled) => tell(run, &sampled, &found),
        Taken::Ready(sample) => sample,
    };
    taken.into_iter().map(|group| group.into_iter().map(told).collect()).collect()
}

/// The first, the middle and the last.
fn spread(instances: &[usize]) -> Vec<usize> {
    let last = instances.len().saturating_sub(1);
    let places: BTreeSet<usize> = (0..INSTANCES).map(|i| last * i / (INSTANCES - 1)).collect();
    places.into_iter().filter_map(|p| instances.get(p).copied()).collect()
}

/// What each output of a node gives.
fn take(run: &Run<'_>, node: usize, wanted: usize) -> Vec<Taken> {
    let Some(artifact) = run.artifacts[node].as_ref().filter(|_| wanted > 0) else { return Vec::new() };
    let one = |output: usize| {
        let place = (node, output);
        take_output(artifact, place, wanted).unwrap_or_else(|error| {
            let note = unreadable(&error);
            Some(Taken::Ready(Sample { note, ..Sample::default() }))
        })
    };
    let named = |(output, taken): (usize, Taken)| match taken {
        Taken::Ready(sample) => Taken::Ready(Sample { title: title(run, (node, output)), ..sample }),
        rows => rows,
    };
    (0..artifact.manifest.outputs.len()).filter_map(|o| Some((o, one(o)?))).map(named).collect()
}

fn take_output(artifact: &Artifact, place: Place, wanted: usize) -> Result<Option<Taken>, RunError> {
    let output = artifact.output(place.1);
    if output.rows == 0 {
        return Ok(Some(Taken::Ready(Sample { note: "no rows".into(), ..Sample::default() })));
    }
    if output.columns.iter().any(|c| c.name == ID) {
        let positions = positions(&artifact.manifest.fingerprint.0, output.rows, wanted);
        let batch = artifact.rows_at(place.1, &positions)?;
        return Ok(Some(Taken::Rows(Sampled { place, rows: rows(&batch, positions) })));
    }
    // What a table shows stands among the results.
    if artifact.manifest.tables.is_some() {
        return Ok(None);
    }
    let batch = artifact.rows_at(place.1, &(0..output.rows.min(wanted.max(10) as u64)).collect())?;
    let table = Some(as_table(&batch, output.rows));
    Ok(Some(Taken::Ready(Sample { table, ..Sample::default() })))
}

fn as_table(batch: &RecordBatch, rows: u64) -> super::model::Table {
    let schema = batch.schema();
    let columns: Vec<_> =
        schema.fields().iter().enumerate().map(|(i, f)| (i, f.name().clone(), Format::default())).collect();
    let mut shown = table(&Grid::of(batch, &columns));
    if rows > batch.num_rows() as u64 {
        shown.more = number(rows - batch.num_rows() as u64);
    }
    shown
}

/// The first row, the last, and others drawn by the output's fingerprint, so that the same output gives the same sample.
fn positions(seed: &str, rows: u64, wanted: usize) -> BTreeSet<u64> {
    if rows <= wanted as u64 {
        return (0..rows).collect();
    }
    let mut all = BTreeSet::from([0]);
    if wanted > 1 {
        all.insert(rows - 1);
    }
    let mut draws = blake3::Hasher::new().update(seed.as_bytes()).finalize_xof();
    while all.len() < wanted {
        let mut draw = [0; 8];
        draws.fill(&mut draw);
        all.insert(u64::from_le_bytes(draw) % rows);
    }
    all
}

fn rows(batch: &RecordBatch, positions: BTreeSet<u64>) -> Vec<Row> {
    let schema = batch.schema();
    let row = |(at, position): (usize, u64)| Row {
        position,
        cells: schema
            .fields()
            .iter()
            .zip(batch.columns())
            .map(|(f, c)| (f.name().clone(), cell_shown(c, at)))
            .collect(),
    };
    positions.into_iter().enumerate().take(batch.num_rows()).map(row).collect()
}

fn title(run: &Run<'_>, (node, output): Place) -> String {
    let outputs = &run.info.nodes[node].outputs;
    let name = clean(&run.name(node));
    match outputs.get(output) {
        Some(output) if outputs.len() > 1 => format!("{name}, output {}", output.name),
        _ => name,
    }
}

/// Ids of the rows that this one can come from: its own, without the numbers of its samples, and its partner's in a join.
fn ids(row: &Row) -> Vec<String> {
    let mut ids = Vec::new();
    for start in [ID, "id_right"].iter().filter_map(|column| row.get(column)) {
        let mut id = start;
        loop {
            ids.push(id.to_string());
            match id.rsplit_once('#') {
                Some((base, k)) if !k.is_empty() && k.bytes().all(|b| b.is_ascii_digit()) => id = base,
                _ => break,
            }
        }
    }
    ids
}

/// Outputs that a node was made from, however far, in the order of the plan.
fn ancestors(run: &Run<'_>, node: usize) -> BTreeSet<Place> {
    let mut found = BTreeSet::new();
    let mut open = vec![node];
    let mut seen = BTreeSet::from([node]);
    while let Some(at) = open.pop() {
        for input in &run.info.nodes[at].inputs {
            let Some(producer) = run.node_of(&input.fingerprint) else { continue };
            let outputs = &run.info.nodes[producer].outputs;
            let Some(output) = outputs.iter().position(|o| o.name == input.output) else { continue };
            found.insert((producer, output));
            if seen.insert(producer) {
                open.push(producer);
            }
        }
    }
    found
}

/// The ancestors to look in for a row: of a swept node those instances whose axis values the row does not contradict.
fn sources(run: &Run<'_>, node: usize, row: &Row, ancestors: &BTreeSet<Place>) -> Vec<Place> {
    let bindings = &run.info.nodes[node].name.bindings;
    let agrees = |axis: &str, value: &str| {
        bindings.get(axis).is_none_or(|v| v == value) && row.get(axis).is_none_or(|v| v == value)
    };
    let fits = |place: &&Place| run.info.nodes[place.0].name.bindings.0.iter().all(|(axis, value)| agrees(axis, value));
    ancestors.iter().filter(fits).copied().collect()
}

/// Rows by output and id.
type Found = HashMap<Place, HashMap<String, Row>>;

/// Reads every output that some sampled row can come from once.
fn look_up<'s>(run: &Run<'_>, sampled: impl Iterator<Item = &'s Sampled>) -> Found {
    let mut wanted: BTreeMap<Place, BTreeSet<String>> = BTreeMap::new();
    for Sampled { place: (node, _), rows } in sampled {
        let above = ancestors(run, *node);
        for row in rows {
            for source in sources(run, *node, row, &above) {
                wanted.entry(source).or_default().extend(ids(row));
            }
        }
    }
    let read = |(place, ids): (Place, BTreeSet<String>)| {
        let artifact = run.artifacts[place.0].as_ref()?;
        // A source that cannot be read is missing in the lineage; its own section says why.
        let by_id = artifact.find(place.1, &ids).ok()?;
        let positions: BTreeSet<u64> = by_id.values().copied().collect();
        let batch = artifact.rows_at(place.1, &positions).ok()?;
        let rows: HashMap<u64, Row> = rows(&batch, positions).into_iter().map(|r| (r.position, r)).collect();
        Some((place, by_id.into_iter().filter_map(|(id, at)| Some((id, rows.get(&at)?.clone()))).collect()))
    };
    wanted.into_iter().filter_map(read).collect()
}

fn tell(run: &Run<'_>, sampled: &Sampled, found: &Found) -> Sample {
    let above = ancestors(run, sampled.place.0);
    let all = run.artifacts[sampled.place.0].as_ref().map_or(0, |a| a.output(sampled.place.1).rows);
    let row = |row: &Row| {
        let (lineage, more) = lineage(run, sampled.place.0, row, &above, found);
        SampleRow {
            id: clean(row.get(ID).unwrap_or_default()),
            row: format!("{} of {}", number(row.position + 1), number(all)),
            place: match row.position {
                0 => "first".into(),
                p if p + 1 == all => "last".into(),
                _ => "drawn".into(),
            },
            cells: row.cells.iter().filter(|(name, _)| name != ID).map(|(name, value)| cell(name, value)).collect(),
            lineage,
            lineage_more: if more == 0 { String::new() } else { number(more as u64) },
        }
    };
    Sample { title: title(run, sampled.place), rows: sampled.rows.iter().map(row).collect(), ..Sample::default() }
}

/// The steps to a row, and how many are left out.
fn lineage(run: &Run<'_>, node: usize, row: &Row, above: &BTreeSet<Place>, found: &Found) -> (Vec<Step>, usize) {
    let ids = ids(row);
    let mut last: HashMap<String, Value> = HashMap::new();
    let mut taken: HashMap<(&str, usize), usize> = HashMap::new();
    let mut steps = Vec::new();
    let mut more = 0;
    for place in sources(run, node, row, above) {
        let here = found.get(&place).and_then(|rows| ids.iter().find_map(|id| rows.get(id)));
        let Some(earlier) = here else { continue };
        let same = taken.entry((&run.info.nodes[place.0].name.base, place.1)).or_default();
        *same += 1;
        if *same > SAME_NODE || steps.len() == STEPS {
            more += 1;
            continue;
        }
        let mut cells: Vec<Cell> = Vec::new();
        let mut unchanged = 0;
        for (name, value) in earlier.cells.iter().filter(|(name, _)| name != ID) {
            if last.get(name) == Some(value) {
                unchanged += 1;
            } else {
                cells.push(cell(name, value));
                last.insert(name.clone(), value.clone());
            }
        }
        steps.push(Step {
            node: title(run, place),
            anchor: run.anchor(place.0),
            op: run.info.nodes[place.0].op.clone(),
            row: clean(earlier.get(ID).unwrap_or_default()),
            cells,
            unchanged: if unchanged == 0 { String::new() } else { number(unchanged) },
        });
    }
    (steps, more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_go_back_to_what_they_are_samples_of() {
        let row = |cells: &[(&str, &str)]| Row {
            position: 0,
            cells: cells.iter().map(|(n, v)| (n.to_string(), Value::from(*v))).collect(),
        };
        assert_eq!(ids(&row(&[("id", "g:1#2#0")])), ["g:1#2#0", "g:1#2", "g:1"]);
        assert_eq!(ids(&row(&[("id", "a#b"), ("id_right", "r:7#1")])), ["a#b", "r:7#1", "r:7"]);
        assert!(ids(&row(&[("n", "1")])).is_empty());
    }

    #[test]
    fn a_sample_has_both_ends_and_is_always_the_same() {
        assert_eq!(positions("x", 3, 5), BTreeSet::from([0, 1, 2]));
        let drawn = positions("x", 1000, 5);
        assert!(drawn.len() == 5 && drawn.contains(&0) && drawn.contains(&999));
        assert_eq!(drawn, positions("x", 1000, 5));
        assert_ne!(drawn, positions("y", 1000, 5));
        assert_eq!(positions("x", 10, 1), BTreeSet::from([0]));
    }
}
