//! Pipelines as data: `pipelines/<name>/` with `pipeline.toml`, `build.sql` and, where they are needed, more SQL.
//!
//! - `build.sql` makes the rows of the days that are rebuilt; every table it reads is restricted to those days.
//! - `days.sql` adds days that the changed files alone do not name; it sees whole tables, and the changed rows as
//!   `changed.<table>`.
//! - `report.sql` gives `(reason, count)` over whole tables: what waits, what is worth knowing.
//! - `finish = "x"` in `pipeline.toml` sends the rows of `build.sql`, as `candidates`, through `shared/x.sql`;
//!   `days = "x"` takes `shared/x.sql` as `days.sql`. Every other file of `shared/` is a view `shared.<name>`.
//! - `shared/parameters.toml` holds the parameters of all pipelines; a pipeline's own come before them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use uptake_model::{TableSpec, decode, tables};

use crate::checks::Checks;
use crate::error::{Error, Result};
use crate::functions;
use crate::reader::Reader;
use crate::statement::{Literals, Named, Statement, literal, quoted};

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
}

/// Raised when the runner itself comes to make other rows of the same SQL: every output is then built anew.
const RUNNER_VERSION: u32 = 1;

/// When the days of a build are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Commit {
    /// All in one commit, once every group has passed its checks.
    #[default]
    Together,
    /// Each group as soon as it has: for rows that took long to make and that are checked one by one. A build that is
    /// killed or refused keeps them.
    Groups,
}

/// What a `pipeline.toml` may say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Definition {
    description: String,
    output: String,
    #[serde(default)]
    slice: BTreeMap<String, String>,
    #[serde(default)]
    finish: Option<String>,
    #[serde(default)]
    days: Option<String>,
    #[serde(default)]
    tagger: Reader,
    #[serde(default)]
    commit: Commit,
    #[serde(default)]
    parameters: toml::Table,
    #[serde(default)]
    checks: Checks,
}

/// One pipeline.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Its folder's name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The table that it writes.
    pub output: &'static TableSpec,
    /// The part of the table that it writes, when others write the rest: a partition column and its value.
    pub slice: Option<(String, String)>,
    /// What its rows are held to.
    pub checks: Checks,
    pub(crate) tagger: Reader,
    pub(crate) commit: Commit,
    pub(crate) build: Statement,
    pub(crate) finish: Option<Statement>,
    pub(crate) days: Option<Statement>,
    pub(crate) report: Option<Statement>,
    /// Views that it uses, in an order in which they can be made.
    pub(crate) views: Vec<(String, Statement)>,
    pub(crate) literals: Literals,
    /// Parameters that are tables of names and numbers.
    pub(crate) relations: BTreeMap<String, BTreeMap<String, f64>>,
    /// Tables that it reads, in the order of the flow.
    pub(crate) sources: Vec<&'static TableSpec>,
}

/// All pipelines of a folder, checked against each other.
#[derive(Debug, Clone)]
pub struct Pipelines {
    all: BTreeMap<String, Pipeline>,
    /// Generations whose SQL has been planned; clones share it, so that a process plans each for nothing but once.
    pub(crate) planned: Arc<Mutex<BTreeSet<String>>>,
}

impl Pipelines {
    /// Those that the program carries.
    ///
    /// # Errors
    /// When they are not what they must be, which a test rules out.
    pub fn embedded() -> Result<Self> {
        let files = embedded::FILES.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        Self::from_files(&files.collect())
    }

    /// Those of a directory.
    ///
    /// # Errors
    /// [`Error::Read`] when a file cannot be read; [`Error::Pipeline`] that names the pipeline and the fault.
    pub fn from_directory(directory: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let read =
            |path: &Path| Error::Read { path: path.display().to_string(), source: std::io::Error::other("unreadable") };
        let mut folders = vec![directory.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder)
                .map_err(|source| Error::Read { path: folder.display().to_string(), source })?;
            for entry in entries {
                let path = entry.map_err(|source| Error::Read { path: folder.display().to_string(), source })?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "sql" || extension == "toml") {
                    let name = path.strip_prefix(directory).map_err(|_| read(&path))?;
                    let parts: Vec<_> = name.components().map(|part| part.as_os_str().to_string_lossy()).collect();
                    let text = std::fs::read_to_string(&path)
                        .map_err(|source| Error::Read { path: path.display().to_string(), source })?;
                    let _ = files.insert(parts.join("/"), text);
                }
            }
        }
        Self::from_files(&files)
    }

    /// Those of files named by their path in the folder of pipelines.
    ///
    /// # Errors
    /// [`Error::Pipeline`] that names the pipeline and the fault.
    pub fn from_files(files: &BTreeMap<String, String>) -> Result<Self> {
        let folders: BTreeSet<&str> = files
            .keys()
            .filter_map(|path| path.strip_suffix("/pipeline.toml"))
            .filter(|name| !name.contains('/'))
            .collect();
        if folders.is_empty() {
            return Err(Error::pipeline("", "the directory holds no <name>/pipeline.toml"));
        }
        let shared = shared_statements(files)?;
        let mut all = BTreeMap::new();
        for name in folders {
            let pipeline = Pipeline::read(name, files, &shared)?;
            let _ = all.insert(name.to_owned(), pipeline);
        }
        let pipelines = Self { all, planned: Arc::default() };
        pipelines.check_outputs()?;
        let _ = pipelines.ordered(&[])?;
        Ok(pipelines)
    }

    /// All of them, by name.
    pub fn all(&self) -> impl Iterator<Item = &Pipeline> {
        self.all.values()
    }

    /// The named ones and what they depend on (all when none is named), each behind those whose output it reads.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Circle`].
    pub fn ordered(&self, names: &[String]) -> Result<Vec<&Pipeline>> {
        let mut order = Vec::new();
        let mut done = BTreeSet::new();
        if names.is_empty() {
            let mut roots: Vec<&Pipeline> = self.all.values().collect();
            roots.sort_by_key(|pipeline| (position(pipeline.output), &pipeline.name));
            for root in roots {
                self.visit(root, &mut vec![], &mut done, &mut order)?;
            }
            return Ok(order);
        }
        for name in names {
            let root = self.all.get(name).ok_or_else(|| Error::Unknown {
                name: name.clone(),
                known: self.all.keys().cloned().collect::<Vec<_>>().join(", "),
            })?;
            self.visit(root, &mut vec![], &mut done, &mut order)?;
        }
        Ok(order)
    }

    fn visit<'a>(
        &'a self,
        pipeline: &'a Pipeline,
        open: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
        order: &mut Vec<&'a Pipeline>,
    ) -> Result<()> {
        if done.contains(pipeline.name.as_str()) {
            return Ok(());
        }
        if let Some(start) = open.iter().position(|name| *name == pipeline.name) {
            let mut names: Vec<String> = open[start..].iter().map(|name| (*name).to_owned()).collect();
            names.push(pipeline.name.clone());
            return Err(Error::Circle { names });
        }
        open.push(&pipeline.name);
        for source in &pipeline.sources {
            for maker in self.all.values().filter(|maker| maker.output.qualified() == source.qualified()) {
                self.visit(maker, open, done, order)?;
            }
        }
        let _ = open.pop();
        let _ = done.insert(&pipeline.name);
        order.push(pipeline);
        Ok(())
    }

    /// Two pipelines may write one table only as different slices of it.
    fn check_outputs(&self) -> Result<()> {
        for pipeline in self.all.values() {
            // A slice of a table and the whole of it overlap as well.
            let overlaps = |other: &&Pipeline| {
                other.name != pipeline.name
                    && other.output.qualified() == pipeline.output.qualified()
                    && (other.slice == pipeline.slice || other.slice.is_none() || pipeline.slice.is_none())
            };
            if let Some(other) = self.all.values().find(overlaps) {
                let message = format!(
                    "`{}` writes the same part of {}; give each a slice of its own",
                    other.name, pipeline.output
                );
                return Err(Error::pipeline(&pipeline.name, message));
            }
        }
        Ok(())
    }
}

fn position(spec: &TableSpec) -> usize {
    tables::ALL.iter().position(|known| known.qualified() == spec.qualified()).unwrap_or(usize::MAX)
}

/// The statements of `shared/`.
fn shared_statements(files: &BTreeMap<String, String>) -> Result<BTreeMap<String, Statement>> {
    let mut shared = BTreeMap::new();
    for (path, text) in files {
        let Some(name) = path.strip_prefix("shared/").and_then(|name| name.strip_suffix(".sql")) else { continue };
        let statement = Statement::parse(path, text).map_err(|fault| Error::pipeline("shared", fault))?;
        let _ = shared.insert(name.to_owned(), statement);
    }
    Ok(shared)
}

impl Pipeline {
    fn read(name: &str, files: &BTreeMap<String, String>, shared: &BTreeMap<String, Statement>) -> Result<Self> {
        let fault = |message: String| Error::pipeline(name, message);
        let toml = files.get(&format!("{name}/pipeline.toml")).map(String::as_str).unwrap_or_default();
        let definition: Definition =
            toml::from_str(toml).map_err(|error| fault(format!("pipeline.toml: {}", error.to_string().trim_end())))?;
        let output = tables::find(&definition.output)
            .ok_or_else(|| fault(format!("`output`: there is no table {}", definition.output)))?;
        if output.column("conversation_date").is_none() {
            return Err(fault(format!(
                "`output`: {output} is not kept by conversation_date, so no day of it can be replaced"
            )));
        }
        let slice = slice_of(&definition, output).map_err(fault)?;
        definition.checks.validate(output).map_err(fault)?;
        let own = |file: &str| -> Result<Option<Statement>> {
            let path = format!("{name}/{file}");
            files.get(&path).map(|text| Statement::parse(&path, text).map_err(fault)).transpose()
        };
        let named = |key: &str, wanted: &Option<String>| -> Result<Option<Statement>> {
            let Some(wanted) = wanted else { return Ok(None) };
            let statement =
                shared.get(wanted).ok_or_else(|| fault(format!("`{key}`: there is no shared/{wanted}.sql")))?;
            Ok(Some(statement.clone()))
        };
        let build = own("build.sql")?.ok_or_else(|| fault("build.sql is missing".to_owned()))?;
        let days = own("days.sql")?;
        if days.is_some() && definition.days.is_some() {
            return Err(fault("both days.sql and the key `days` are there; keep one".to_owned()));
        }
        let mut pipeline = Self {
            name: name.to_owned(),
            description: definition.description.clone(),
            output,
            slice,
            tagger: definition.tagger,
            commit: definition.commit,
            build,
            finish: named("finish", &definition.finish)?,
            days: days.or(named("days", &definition.days)?),
            report: own("report.sql")?,
            views: vec![],
            literals: Literals::new(),
            relations: BTreeMap::new(),
            sources: vec![],
            checks: definition.checks,
        };
        pipeline.resolve(shared).map_err(fault)?;
        let defaults = files.get("shared/parameters.toml").map_or("", String::as_str);
        let defaults: toml::Table =
            toml::from_str(defaults).map_err(|error| fault(format!("shared/parameters.toml: {error}")))?;
        pipeline.take_parameters(&defaults, &definition.parameters).map_err(fault)?;
        Ok(pipeline)
    }

    /// Its statements, views first.
    pub(crate) fn statements(&self) -> impl Iterator<Item = &Statement> {
        let own = [Some(&self.build), self.finish.as_ref(), self.days.as_ref(), self.report.as_ref()];
        self.views.iter().map(|(_, statement)| statement).chain(own.into_iter().flatten())
    }

    /// Finds the views and the tables that it reads.
    fn resolve(&mut self, shared: &BTreeMap<String, Statement>) -> std::result::Result<(), String> {
        let mut views: Vec<(String, Statement)> = Vec::new();
        let mut sources = BTreeSet::new();
        let statements: Vec<(Statement, bool)> = [
            (Some(&self.build), false),
            (self.finish.as_ref(), false),
            (self.days.as_ref(), true),
            (self.report.as_ref(), false),
        ]
        .into_iter()
        .filter_map(|(statement, changed)| statement.map(|statement| (statement.clone(), changed)))
        .collect();
        for (statement, may_see_changes) in &statements {
            self.follow(statement, *may_see_changes, shared, &mut vec![], &mut views, &mut sources)?;
        }
        self.views = views;
        self.sources = tables::ALL.into_iter().filter(|spec| sources.contains(&spec.qualified())).collect();
        if self.sources.iter().any(|spec| spec.qualified() == self.output.qualified()) {
            return Err(format!(
                "it reads its own output {}; an earlier build of it is `previous.{}`",
                self.output, self.output.name
            ));
        }
        Ok(())
    }

    fn follow(
        &self,
        statement: &Statement,
        may_see_changes: bool,
        shared: &BTreeMap<String, Statement>,
        open: &mut Vec<String>,
        views: &mut Vec<(String, Statement)>,
        sources: &mut BTreeSet<String>,
    ) -> std::result::Result<(), String> {
        for Named { schema, table } in statement.tables()? {
            let file = &statement.file;
            match schema.as_str() {
                "" if table == "candidates" && self.finish.as_ref().is_some_and(|finish| finish.file == *file) => {}
                "" => return Err(format!("{file}: `{table}` must be named with its layer, such as silver.{table}")),
                "previous" if table == self.output.name => {}
                "previous" => {
                    return Err(format!(
                        "{file}: previous.{table}: only the own output {} has an earlier build here",
                        self.output
                    ));
                }
                "changed" if !may_see_changes => {
                    return Err(format!("{file}: changed.{table} can be read in days.sql alone"));
                }
                "changed" => {
                    let spec = tables::ALL.into_iter().find(|spec| spec.name == table);
                    let spec = spec.ok_or_else(|| format!("{file}: changed.{table}: there is no such table"))?;
                    let _ = sources.insert(spec.qualified());
                }
                "parameters" => {}
                "shared" => {
                    if open.contains(&table) {
                        return Err(format!("{file}: shared.{table} reads itself"));
                    }
                    if views.iter().any(|(known, _)| *known == table) {
                        continue;
                    }
                    let view = shared.get(&table).ok_or_else(|| format!("{file}: there is no shared/{table}.sql"))?;
                    open.push(table.clone());
                    self.follow(view, may_see_changes, shared, open, views, sources)?;
                    let _ = open.pop();
                    views.push((table.clone(), view.clone()));
                }
                _ => {
                    let qualified = format!("{schema}.{table}");
                    let spec = tables::find(&qualified).ok_or_else(|| {
                        let known: Vec<String> = tables::ALL.iter().map(|spec| spec.qualified()).collect();
                        format!("{file}: there is no table {qualified}; there are {}", known.join(", "))
                    })?;
                    let _ = sources.insert(spec.qualified());
                }
            }
        }
        Ok(())
    }

    /// Takes the parameters that its statements use: its own before the shared ones.
    fn take_parameters(&mut self, defaults: &toml::Table, own: &toml::Table) -> std::result::Result<(), String> {
        let mut placeholders = BTreeSet::new();
        let mut relations = BTreeSet::new();
        for statement in self.statements() {
            placeholders.extend(statement.placeholders());
            let named = statement.tables()?;
            relations.extend(named.into_iter().filter(|named| named.schema == "parameters").map(|named| named.table));
        }
        let used = |name: &String| placeholders.contains(name) || relations.contains(name);
        if let Some(name) = own.keys().find(|name| !used(name)) {
            return Err(format!("parameter `{name}` is used by none of its statements"));
        }
        if let Some((column, value)) = &self.slice {
            let _ = self.literals.insert(column.clone(), quoted(value));
        }
        let given = |name: &String| {
            RUN_PARAMETERS.contains(&name.as_str()) || self.slice.as_ref().is_some_and(|slice| slice.0 == *name)
        };
        let wanted: Vec<String> = placeholders.iter().filter(|name| !given(name)).cloned().collect();
        for name in &wanted {
            let value = own.get(name).or_else(|| defaults.get(name));
            let value = value.ok_or_else(|| {
                format!("parameter `${name}` is declared neither in pipeline.toml nor in shared/parameters.toml")
            })?;
            let value = literal(value).map_err(|fault| format!("parameter `{name}`: {fault}"))?;
            let _ = self.literals.insert(name.clone(), value);
        }
        for name in relations {
            let table = own.get(&name).or_else(|| defaults.get(&name)).and_then(toml::Value::as_table);
            let table = table
                .ok_or_else(|| format!("parameters.{name}: no parameter `{name}` is a table of names and numbers"))?;
            let mut entries = BTreeMap::new();
            for (key, value) in table {
                #[expect(clippy::cast_precision_loss, reason = "weights are small")]
                let number = value.as_float().or_else(|| value.as_integer().map(|number| number as f64));
                let number = number.ok_or_else(|| format!("parameter `{name}.{key}` must be a number"))?;
                let _ = entries.insert(key.clone(), number);
            }
            let _ = self.relations.insert(name, entries);
        }
        if self.literals_use_tagger(&placeholders) && self.tagger == Reader::None {
            return Err(
                "it uses $tagger_id or tag(…): say `tagger = true`, so that another tagger rebuilds it".to_owned()
            );
        }
        Ok(())
    }

    fn literals_use_tagger(&self, placeholders: &BTreeSet<String>) -> bool {
        placeholders.contains("tagger_id") || self.statements().any(|statement| statement.text.contains(" tag("))
    }

    /// What the stored positions belong to: other SQL, other parameters, another tagger or other functions are
    /// another generation, and the output is built anew under it.
    pub fn generation(&self, tagger: &str) -> String {
        let mut parts = vec![format!("{RUNNER_VERSION}/{}", functions::VERSION)];
        parts.extend(self.statements().map(|statement| statement.text.clone()));
        parts.extend(self.literals.iter().map(|(name, value)| format!("{name}={value}")));
        parts.extend(self.relations.iter().map(|(name, entries)| format!("{name}={entries:?}")));
        parts.extend(self.output.columns.iter().map(|column| format!("{}:{}", column.name, column.kind.name())));
        parts.push(format!("{:?}", self.slice));
        if self.tagger != Reader::None {
            parts.push(tagger.to_owned());
        }
        decode::content_hash(parts.join("\u{0}").as_bytes()).chars().take(12).collect()
    }
}

/// Parameters that the runner gives.
pub(crate) const RUN_PARAMETERS: [&str; 3] = ["tagger_id", "watermark", "previous_watermark"];

fn slice_of(definition: &Definition, output: &TableSpec) -> std::result::Result<Option<(String, String)>, String> {
    let free: Vec<&str> = output.partition.iter().copied().filter(|column| *column != "conversation_date").collect();
    match (definition.slice.iter().next(), definition.slice.len()) {
        (None, _) if free.is_empty() => Ok(None),
        (Some((column, value)), 1) if free == [column.as_str()] => Ok(Some((column.clone(), value.clone()))),
        _ => Err(format!(
            "`slice` must give exactly the partition columns of {output} beside conversation_date: {}",
            if free.is_empty() { "none".to_owned() } else { free.join(", ") }
        )),
    }
}
