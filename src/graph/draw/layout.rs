//! A layered layout: longest-path layers, crossings reduced by medians, straight edges first.

/// A box to place. `ports_*` are offsets from the box's centre where links leave and enter.
pub(super) struct Sized {
    pub width: f64,
    pub height: f64,
}

/// A link to route, by box index.
#[derive(Clone, Copy)]
pub(super) struct Route {
    pub from: usize,
    pub to: usize,
}

/// Where everything goes.
pub(super) struct Layout {
    /// Centre of each box.
    pub centres: Vec<(f64, f64)>,
    /// For each link, the layers between its ends: x, and the top and bottom of the layer there.
    pub bends: Vec<Vec<(f64, f64, f64)>>,
    pub width: f64,
    pub height: f64,
}

const SEPARATION: f64 = 30.0;
const DUMMY_WIDTH: f64 = 10.0;
/// Links that go far to the side get more height, so that they do not lie flat.
const STEEPNESS: f64 = 0.06;
const GREATEST_RISE: f64 = 90.0;

/// Places boxes in layers from top to bottom. `gap` gives the room below a layer.
pub(super) fn place(boxes: &[Sized], routes: &[Route], gap: impl Fn(&[usize], &[usize]) -> f64) -> Layout {
    let layer = layers(boxes.len(), routes);
    let mut grid = Grid::new(boxes, routes, &layer);
    grid.reduce_crossings();
    let x = grid.coordinates();
    grid.finish(boxes, routes, &x, gap)
}

/// Longest path from the sources; then every node without inputs moves down to its first reader.
fn layers(n: usize, routes: &[Route]) -> Vec<usize> {
    let mut layer = vec![0; n];
    // Links run from producers to consumers without cycles, so at most `n` rounds change anything.
    for _ in 0..n {
        let mut changed = false;
        for r in routes {
            if layer[r.to] < layer[r.from] + 1 {
                layer[r.to] = layer[r.from] + 1;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    for node in 0..n {
        let has_inputs = routes.iter().any(|r| r.to == node);
        let first_reader: Option<usize> = routes.iter().filter(|r| r.from == node).map(|r| layer[r.to]).min();
        if let (false, Some(reader)) = (has_inputs, first_reader) {
            layer[node] = reader.saturating_sub(1);
        }
    }
    layer
}

/// A box, or the place where a link passes through a layer.
struct Item {
    width: f64,
    layer: usize,
    dummy: bool,
    above: Vec<usize>,
    below: Vec<usize>,
}

struct Grid {
    items: Vec<Item>,
    /// Items of each layer, from left to right.
    rows: Vec<Vec<usize>>,
    /// Dummies of each link, from top to bottom.
    chains: Vec<Vec<usize>>,
}

impl Grid {
    fn new(boxes: &[Sized], routes: &[Route], layer: &[usize]) -> Self {
        let mut items: Vec<Item> = boxes
            .iter()
            .zip(layer)
            .map(|(b, &layer)| Item { width: b.width, layer, dummy: false, above: Vec::new(), below: Vec::new() })
            .collect();
        let mut chains = Vec::with_capacity(routes.len());
        for r in routes {
            let mut chain = Vec::new();
            let mut last = r.from;
            for between in layer[r.from] + 1..layer[r.to] {
                let dummy = items.len();
                let (above, below) = (Vec::new(), Vec::new());
                items.push(Item { width: DUMMY_WIDTH, layer: between, dummy: true, above, below });
                connect(&mut items, last, dummy);
                chain.push(dummy);
                last = dummy;
            }
            connect(&mut items, last, r.to);
            chains.push(chain);
        }
        let depth = items.iter().map(|i| i.layer + 1).max().unwrap_or(0);
        let mut rows = vec![Vec::new(); depth];
        for (i, item) in items.iter().enumerate() {
            rows[item.layer].push(i);
        }
        Self { items, rows, chains }
    }

    /// Sweeps down and up, each time ordering a layer by the medians of its neighbours; keeps the best order seen.
    fn reduce_crossings(&mut self) {
        let mut best = self.rows.clone();
        let mut fewest = self.crossings();
        for round in 0..24 {
            if fewest == 0 {
                break;
            }
            let down = round % 2 == 0;
            let depth = self.rows.len();
            for step in 1..depth {
                self.order_by_medians(if down { step } else { depth - 1 - step }, down);
            }
            self.swap_neighbours();
            let now = self.crossings();
            if now < fewest {
                fewest = now;
                best.clone_from(&self.rows);
            }
        }
        self.rows = best;
    }

    fn positions(&self) -> Vec<usize> {
        let mut position = vec![0; self.items.len()];
        for row in &self.rows {
            for (p, &item) in row.iter().enumerate() {
                position[item] = p;
            }
        }
        position
    }

    fn order_by_medians(&mut self, row: usize, look_up: bool) {
        let position = self.positions();
        let median = |item: usize| {
            let neighbours = if look_up { &self.items[item].above } else { &self.items[item].below };
            let mut at: Vec<usize> = neighbours.iter().map(|&n| position[n]).collect();
            at.sort_unstable();
            match at.len() {
                // Without neighbours a node stays where it is.
                0 => position[item] as f64,
                n if n % 2 == 1 => at[n / 2] as f64,
                n => (at[n / 2 - 1] + at[n / 2]) as f64 / 2.0,
            }
        };
        let mut keyed: Vec<(f64, usize)> = self.rows[row].iter().map(|&i| (median(i), i)).collect();
        keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.rows[row] = keyed.into_iter().map(|(_, i)| i).collect();
    }

    /// Swaps neighbours while that removes crossings.
    fn swap_neighbours(&mut self) {
        let mut position = self.positions();
        for row in 0..self.rows.len() {
            let mut improved = true;
            while improved {
                improved = false;
                for p in 1..self.rows[row].len() {
                    let (a, b) = (self.rows[row][p - 1], self.rows[row][p]);
                    let count = |l: usize, r: usize| {
                        self.pair(&self.items[l].above, &self.items[r].above, &position)
                            + self.pair(&self.items[l].below, &self.items[r].below, &position)
                    };
                    if count(b, a) < count(a, b) {
                        self.rows[row].swap(p - 1, p);
                        position.swap(a, b);
                        improved = true;
                    }
                }
            }
        }
    }

    /// Crossings between the links of a left and of a right item.
    fn pair(&self, left: &[usize], right: &[usize], position: &[usize]) -> usize {
        left.iter().map(|&l| right.iter().filter(|&&r| position[r] < position[l]).count()).sum()
    }

    fn crossings(&self) -> usize {
        let position = self.positions();
        let mut count = 0;
        for row in &self.rows {
            let ends: Vec<usize> = row
                .iter()
                .flat_map(|&item| {
                    let mut ends: Vec<usize> = self.items[item].below.iter().map(|&b| position[b]).collect();
                    ends.sort_unstable();
                    ends
                })
                .collect();
            for (i, a) in ends.iter().enumerate() {
                count += ends[i + 1..].iter().filter(|b| *b < a).count();
            }
        }
        count
    }

    /// Centres: each layer in turn as near to its neighbours as the order allows, down and up until it settles.
    fn coordinates(&self) -> Vec<f64> {
        let mut x = vec![0.0; self.items.len()];
        for row in &self.rows {
            let mut right = 0.0;
            for &item in row {
                x[item] = right + self.items[item].width / 2.0;
                right = x[item] + self.items[item].width / 2.0 + SEPARATION;
            }
            let shift = (right - SEPARATION) / 2.0;
            row.iter().for_each(|&item| x[item] -= shift);
        }
        for round in 0..40 {
            let depth = self.rows.len();
            // The last rounds look both ways, which centres a node between what it reads and what reads it.
            let both = round >= 24;
            for step in 0..depth {
                let row = if round % 2 == 0 { step } else { depth - 1 - step };
                self.settle(row, &mut x, both || round % 2 == 0, both || round % 2 == 1);
            }
        }
        x
    }

    /// Least squares under the order: pool adjacent violators.
    fn settle(&self, row: usize, x: &mut [f64], above: bool, below: bool) {
        struct Pool {
            sum: f64,
            weight: f64,
            count: usize,
        }
        let mut pools: Vec<Pool> = Vec::new();
        let mut offset = 0.0;
        let mut offsets = Vec::with_capacity(self.rows[row].len());
        for (p, &item) in self.rows[row].iter().enumerate() {
            if p > 0 {
                let left = &self.items[self.rows[row][p - 1]];
                offset += (left.width + self.items[item].width) / 2.0 + SEPARATION;
            }
            offsets.push(offset);
            let (wanted, weight) = self.wanted(item, x, above, below);
            pools.push(Pool { sum: (wanted - offset) * weight, weight, count: 1 });
            while let [.., a, b] = pools.as_slice() {
                if a.sum / a.weight <= b.sum / b.weight {
                    break;
                }
                let (sum, weight, count) = (b.sum, b.weight, b.count);
                pools.pop();
                if let Some(a) = pools.last_mut() {
                    a.sum += sum;
                    a.weight += weight;
                    a.count += count;
                }
            }
        }
        let settled = pools.iter().flat_map(|p| std::iter::repeat_n(p.sum / p.weight, p.count));
        for ((&item, offset), base) in self.rows[row].iter().zip(offsets).zip(settled) {
            x[item] = base + offset;
        }
    }

    /// Where an item would like to be, and how much: long links want to be straight most.
    fn wanted(&self, item: usize, x: &[f64], above: bool, below: bool) -> (f64, f64) {
        let me = &self.items[item];
        let neighbours = me.above.iter().filter(|_| above).chain(me.below.iter().filter(|_| below)).map(|&n| {
            let weight = match (me.dummy, self.items[n].dummy) {
                (true, true) => 8.0,
                (false, false) => 1.0,
                _ => 2.0,
            };
            (x[n] * weight, weight)
        });
        let (sum, weight) = neighbours.fold((0.0, 0.0), |(s, w), (xs, xw)| (s + xs, w + xw));
        if weight > 0.0 { (sum / weight, weight) } else { (x[item], 0.01) }
    }

    fn finish(&self, boxes: &[Sized], routes: &[Route], x: &[f64], gap: impl Fn(&[usize], &[usize]) -> f64) -> Layout {
        let left = self.items.iter().zip(x).map(|(i, x)| x - i.width / 2.0).fold(f64::INFINITY, f64::min);
        let right = self.items.iter().zip(x).map(|(i, x)| x + i.width / 2.0).fold(f64::NEG_INFINITY, f64::max);
        let real: Vec<Vec<usize>> =
            self.rows.iter().map(|row| row.iter().copied().filter(|&i| i < boxes.len()).collect()).collect();
        let mut bands = Vec::with_capacity(self.rows.len());
        let mut y = 0.0;
        for (r, row) in real.iter().enumerate() {
            let height = row.iter().map(|&i| boxes[i].height).fold(0.0, f64::max);
            bands.push((y, y + height));
            y += height;
            if let Some(next) = real.get(r + 1) {
                y += gap(row, next) + (self.reach(r, x) * STEEPNESS).min(GREATEST_RISE);
            }
        }
        let centre = |i: usize| {
            let (top, bottom) = bands[self.items[i].layer];
            (x[i] - left, (top + bottom) / 2.0)
        };
        let bend = |&d: &usize| {
            let (top, bottom) = bands[self.items[d].layer];
            (x[d] - left, top, bottom)
        };
        debug_assert_eq!(routes.len(), self.chains.len());
        Layout {
            centres: (0..boxes.len()).map(centre).collect(),
            bends: self.chains.iter().map(|chain| chain.iter().map(bend).collect()).collect(),
            width: if boxes.is_empty() { 0.0 } else { right - left },
            height: y,
        }
    }
}

impl Grid {
    /// How far to the side a link below a row goes at most.
    fn reach(&self, row: usize, x: &[f64]) -> f64 {
        let below = |&item: &usize| self.items[item].below.iter().map(move |&b| (x[b] - x[item]).abs());
        self.rows[row].iter().flat_map(below).fold(0.0, f64::max)
    }
}

fn connect(items: &mut [Item], above: usize, below: usize) {
    items[above].below.push(below);
    items[below].above.push(above);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn boxes(n: usize) -> Vec<Sized> {
        (0..n).map(|i| Sized { width: 60.0 + 10.0 * (i % 5) as f64, height: 40.0 }).collect()
    }

    #[test]
    fn a_chain_is_straight() {
        let routes = [Route { from: 0, to: 1 }, Route { from: 1, to: 2 }];
        let layout = place(&boxes(3), &routes, |_, _| 50.0);
        assert!(layout.centres.windows(2).all(|w| (w[0].0 - w[1].0).abs() < 0.01 && w[1].1 - w[0].1 == 90.0));
    }

    #[test]
    fn crossed_pairs_are_uncrossed() {
        // 0 and 1 above, 2 and 3 below, written crosswise.
        let routes = [Route { from: 0, to: 3 }, Route { from: 1, to: 2 }];
        let layout = place(&boxes(4), &routes, |_, _| 50.0);
        let right_of = |a: usize, b: usize| layout.centres[a].0 > layout.centres[b].0;
        assert_eq!(right_of(0, 1), right_of(3, 2));
    }

    proptest! {
        #[test]
        fn boxes_never_overlap_and_links_point_down(n in 1usize..14, raw in prop::collection::vec((0usize..14, 0usize..14), 0..30)) {
            let routes: Vec<Route> = raw
                .into_iter()
                .map(|(a, b)| (a % n, b % n))
                .filter(|(a, b)| a != b)
                .map(|(a, b)| Route { from: a.min(b), to: a.max(b) })
                .collect();
            let sizes = boxes(n);
            let layout = place(&sizes, &routes, |_, _| 50.0);
            for r in &routes {
                prop_assert!(layout.centres[r.from].1 < layout.centres[r.to].1);
            }
            for a in 0..n {
                let (x, y) = layout.centres[a];
                prop_assert!(x - sizes[a].width / 2.0 > -0.01 && x + sizes[a].width / 2.0 < layout.width + 0.01);
                prop_assert!(y > 0.0 && y < layout.height);
                for b in 0..a {
                    let apart = (layout.centres[b].0 - x).abs() >= (sizes[a].width + sizes[b].width) / 2.0 + SEPARATION - 0.01;
                    prop_assert!(apart || (layout.centres[b].1 - y).abs() >= 40.0);
                }
            }
        }
    }
}
