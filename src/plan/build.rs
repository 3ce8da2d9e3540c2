//! One pass over the graph: every node resolved with the schemas of its inputs.

use super::{
    Estimate, InputInfo, ModelInfo, Plan, PlanEnv, PlanInput, PlanNode, TeacherInfo, environment, fingerprint, leaks,
    models, teachers,
};
use crate::config::NodeDecl;
use crate::diag::{Diagnostic, Diagnostics, Span};
use crate::graph::{Edge, Graph};
use crate::ops::{Operator, ResolveCx, Resolved};
use arrow::datatypes::Schema;
use indexmap::IndexMap;
use petgraph::graph::NodeIndex;
use std::collections::HashMap;
use std::sync::Arc;

/// Plans every node of a graph. Errors of one node do not keep the others from being judged; nodes that read a
/// failed one are left out in silence. There is a plan only when nothing failed.
pub fn build(graph: Graph, env: &PlanEnv, diagnostics: &mut Diagnostics) -> Option<Plan> {
    let mut known = models::describe(&graph, env, diagnostics);
    let teachers = teachers::describe(&graph, &mut known, env, diagnostics);
    let mut planner = Planner {
        graph: &graph,
        env,
        models: &known,
        teachers: &teachers,
        nodes: Vec::with_capacity(graph.order.len()),
        planned: vec![None; graph.graph.node_count()],
        by_fingerprint: HashMap::new(),
        failed: false,
        reports: Reports { diagnostics, first: HashMap::new() },
    };
    for &index in &graph.order {
        planner.plan(index);
    }
    let sound = !planner.failed && graph.broken.is_empty() && graph.pipeline.failed_nodes.is_empty();
    let nodes = planner.nodes;
    planner.reports.finish();
    leaks::check(&nodes, diagnostics);
    if env.check_environment {
        environment::check(&teachers, &known, env, diagnostics);
    }
    if !sound || diagnostics.has_errors() {
        return None;
    }
    let pipeline = graph.pipeline;
    Some(Plan {
        name: pipeline.name,
        doc: pipeline.doc,
        params: pipeline.params,
        seed: pipeline.seed,
        options: pipeline.options,
        models: known,
        teachers,
        nodes,
    })
}

struct Planner<'a, 'd> {
    graph: &'a Graph,
    env: &'a PlanEnv,
    models: &'a IndexMap<String, ModelInfo>,
    teachers: &'a IndexMap<String, TeacherInfo>,
    nodes: Vec<PlanNode>,
    /// Index into `nodes` by graph node; `None` where a node failed or is left out.
    planned: Vec<Option<usize>>,
    by_fingerprint: HashMap<super::Fingerprint, usize>,
    failed: bool,
    reports: Reports<'d>,
}

impl Planner<'_, '_> {
    fn plan(&mut self, index: NodeIndex) {
        let decl = self.graph.decl(index);
        let edges = self.graph.inputs(index);
        let Some(inputs) = self.plan_inputs(&edges) else {
            self.failed = true;
            return;
        };
        let mut found = Diagnostics::new();
        let node = self.resolve(decl, &edges, inputs, &mut found);
        let errors = found.has_errors();
        self.reports.add(decl, found);
        match node {
            Some(node) if !errors => {
                let at = self.nodes.len();
                self.planned[index.index()] = Some(at);
                self.by_fingerprint.entry(node.fingerprint.clone()).or_insert(at);
                self.nodes.push(node);
            }
            _ => self.failed = true,
        }
    }

    /// `None` when a producer failed.
    fn plan_inputs(&self, edges: &[(NodeIndex, &Edge)]) -> Option<Vec<PlanInput>> {
        edges
            .iter()
            .map(|(producer, edge)| {
                let node = self.planned[producer.index()]?;
                // Readers of a shared node read from the one that runs.
                let producer = self.nodes[node].name.clone();
                let node = self.nodes[node].shared_with.unwrap_or(node);
                Some(PlanInput { port: edge.port, node, output: edge.output, producer })
            })
            .collect()
    }

    fn resolve(
        &self,
        decl: &NodeDecl,
        edges: &[(NodeIndex, &Edge)],
        inputs: Vec<PlanInput>,
        found: &mut Diagnostics,
    ) -> Option<PlanNode> {
        if !models::all_known(decl, self.models) || !teachers::all_known(decl, self.teachers) {
            return None;
        }
        let operator = (decl.op.build)(&decl.fields, found)?;
        let infos = self.input_infos(edges);
        let resolved = match inherited_skip(decl, &infos) {
            Some(reason) => skipped(decl, reason),
            None => self.ask(decl, &*operator, &infos, found)?,
        };
        Some(self.node(decl, operator, resolved, inputs, &infos, found))
    }

    /// What the operator says of the node.
    fn ask(
        &self,
        decl: &NodeDecl,
        operator: &dyn Operator,
        infos: &[InputInfo],
        found: &mut Diagnostics,
    ) -> Option<Resolved> {
        let models = self.models;
        let lookup = move |name: &str| models.get(name);
        let teachers = self.teachers;
        let teacher = move |name: &str| teachers.get(name);
        let resolved = operator.resolve(&mut ResolveCx {
            node: &decl.name,
            op: decl.op,
            span: decl.span,
            inputs: infos,
            diagnostics: found,
            models: &lookup,
            teachers: &teacher,
            datasets: self.env.datasets.as_ref(),
            look_at_files: self.env.look_at_files,
            files_must_exist: self.env.files_must_exist,
        })?;
        if resolved.outputs.len() != decl.op.outputs.len() {
            let (op, given, declared) = (decl.op.name, resolved.outputs.len(), decl.op.outputs.len());
            found.push(
                Diagnostic::error("operator-bug", format!("`{op}` resolved {given} outputs, its spec has {declared}"))
                    .at(decl.span, "this is a mistake in the operator, not in the pipeline"),
            );
            return None;
        }
        Some(resolved)
    }

    fn input_infos(&self, edges: &[(NodeIndex, &Edge)]) -> Vec<InputInfo> {
        edges
            .iter()
            .filter_map(|(producer, edge)| {
                let node = &self.nodes[self.planned[producer.index()]?];
                Some(InputInfo {
                    port: edge.port,
                    schema: node.outputs[edge.output].clone(),
                    producer: node.name.clone(),
                    output: node.op.outputs[edge.output].name,
                    producer_span: self.graph.decl(*producer).name_span,
                    span: edge.span,
                    estimate: node.estimate.clone(),
                    skipped: node.skipped.clone(),
                })
            })
            .collect()
    }

    /// The models that local teachers write with are models of the node, and what holds recorded answers is fetched
    /// for it.
    fn with_teachers(&self, mut resolved: Resolved) -> Resolved {
        for teacher in resolved.teachers.iter().filter_map(|name| self.teachers.get(name)) {
            let model = teacher.model.iter().map(|model| &model.decl.name);
            resolved.models.extend(model.filter(|name| !resolved.models.contains(name)).cloned().collect::<Vec<_>>());
            resolved.to_fetch = resolved.to_fetch.or(teacher.to_fetch.clone());
        }
        resolved
    }

    fn node(
        &self,
        decl: &NodeDecl,
        operator: Box<dyn Operator>,
        resolved: Resolved,
        inputs: Vec<PlanInput>,
        infos: &[InputInfo],
        found: &mut Diagnostics,
    ) -> PlanNode {
        let resolved = self.with_teachers(resolved);
        let seed = fingerprint::node_seed(self.graph.pipeline.seed, &decl.name);
        let files = self.env.digests.of_node(decl, &resolved, self.env.check_environment, found);
        let ingredients = fingerprint::Parts {
            op: decl.op,
            operator: &*operator,
            resolved: &resolved,
            inputs: &inputs,
            infos,
            nodes: &self.nodes,
            models: self.models,
            teachers: self.teachers,
            files: &files,
            seed,
        }
        .ingredients();
        let fingerprint = fingerprint::of(&ingredients);
        PlanNode {
            name: decl.name.clone(),
            op: decl.op,
            operator,
            shared_with: self.by_fingerprint.get(&fingerprint).copied(),
            fingerprint,
            ingredients,
            inputs,
            outputs: resolved.outputs,
            estimate: resolved.estimate,
            models: resolved.models,
            teachers: resolved.teachers,
            calls: resolved.calls,
            to_fetch: resolved.to_fetch,
            barrier: resolved.barrier,
            journalled: resolved.journalled,
            unit: resolved.unit,
            skipped: resolved.skipped,
            seed,
            doc: decl.doc.clone(),
            files: resolved.files,
            files_out: resolved.files_out,
            tolerance: decl.tolerance.unwrap_or(self.graph.pipeline.options.tolerance),
            span: decl.span,
        }
    }
}

/// The reason of a skipped producer at a port that cannot do without it.
fn inherited_skip(decl: &NodeDecl, infos: &[InputInfo]) -> Option<String> {
    infos.iter().find_map(|info| {
        let port = decl.op.inputs.iter().find(|p| p.name == info.port)?;
        if port.accepts_skipped { None } else { info.skipped.clone() }
    })
}

/// A node that cannot run because an input is skipped. Its columns are unknown, and nobody may ask for them.
fn skipped(decl: &NodeDecl, reason: String) -> Resolved {
    let outputs = decl.op.outputs.iter().map(|_| Arc::new(Schema::empty())).collect();
    let estimate = Estimate { rows: Some(0), tokens: Some(0), seconds: Some(0.0), memory: Some(0) };
    Resolved { skipped: Some(reason), ..Resolved::new(outputs, estimate) }
}

/// Passes diagnostics on, once for all instances of a declaration.
struct Reports<'d> {
    diagnostics: &'d mut Diagnostics,
    /// By declaration, code and primary place: index of the first report, and how many instances repeat it.
    first: HashMap<(Span, &'static str, Option<Span>), (usize, usize)>,
}

impl Reports<'_> {
    fn add(&mut self, decl: &NodeDecl, found: Diagnostics) {
        let mut own: Vec<(Span, &'static str, Option<Span>)> = Vec::new();
        for d in found.0 {
            let key = (decl.name_span, d.code, d.labels.first().map(|l| l.span));
            // Two columns named at one place are two reports, when one instance makes both.
            if own.contains(&key) {
                self.diagnostics.push(d);
                continue;
            }
            own.push(key);
            match self.first.get_mut(&key) {
                Some((_, repeats)) => *repeats += 1,
                None => {
                    self.first.insert(key, (self.diagnostics.0.len(), 0));
                    self.diagnostics.push(d);
                }
            }
        }
    }

    fn finish(self) {
        for (index, repeats) in self.first.into_values().filter(|(_, repeats)| *repeats > 0) {
            let instances = if repeats == 1 { "instance" } else { "instances" };
            self.diagnostics.0[index].help.push(format!("the same in {repeats} more {instances} of the sweep"));
        }
    }
}
