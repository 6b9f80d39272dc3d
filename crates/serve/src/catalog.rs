//! The lake as a catalog: one schema a layer, tables opened when a query names them.
//!
//! A table is opened once a query, at the version that it then has: a query sees one state of each table, and the next
//! query sees what was written since. Tables that nobody has written yet are empty.

use std::fmt;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::ViewTable;
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::SessionState;
use uptake_lake::Lake;
use uptake_model::tables::{ALL, Layer, TableSpec};

use crate::history;
use crate::reference::{Moment, Reference, find};
use crate::time_travel::HISTORY;
use crate::views::{self, View};

/// The schema that bare names are looked up in; it finds tables and views of every layer.
pub(crate) const ANY: &str = "lake";

/// The state of the session, as long as it lives: views are planned in it.
type StateOf = Box<dyn Fn() -> Option<SessionState> + Send + Sync>;

/// What all schemas share.
pub(crate) struct Tables {
    lake: Lake,
    state: OnceLock<StateOf>,
}

impl fmt::Debug for Tables {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tables").field("lake", &self.lake.url().as_str()).finish_non_exhaustive()
    }
}

impl Tables {
    /// The tables of a lake.
    pub(crate) fn new(lake: Lake) -> Arc<Self> {
        Arc::new(Self { lake, state: OnceLock::new() })
    }

    /// Tells the session that views are planned in. Only the first call counts.
    pub(crate) fn plan_views_in(&self, state: impl Fn() -> Option<SessionState> + Send + Sync + 'static) {
        let _ = self.state.set(Box::new(state));
    }

    async fn table(&self, spec: &'static TableSpec, moment: Moment) -> Result<Arc<dyn TableProvider>> {
        let Some(table) = self.lake.existing(spec).await.map_err(external)? else {
            if moment == Moment::Latest {
                return Ok(Arc::new(EmptyTable::new(spec.schema())));
            }
            return Err(DataFusionError::Plan(format!("{spec} has no versions yet: nothing was written to it")));
        };
        let table = match moment {
            Moment::Latest => table,
            Moment::Version(version) => table.at_version(version).await.map_err(external)?,
            Moment::Time(micros) => table.at_time(micros).await.map_err(external)?,
        };
        table.provider().await.map_err(external)
    }

    async fn view(&self, view: &View) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(state) = self.state.get().and_then(|state| state()) else { return Ok(None) };
        let plan = state.create_logical_plan(&view.sql).await?;
        Ok(Some(Arc::new(ViewTable::new(plan, Some(view.sql.clone())))))
    }
}

fn external(error: uptake_lake::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The catalog: a schema a layer, one for histories, one for bare names.
#[derive(Debug)]
pub(crate) struct LakeCatalog {
    tables: Arc<Tables>,
}

impl LakeCatalog {
    /// The catalog over these tables.
    pub(crate) fn new(tables: Arc<Tables>) -> Self {
        Self { tables }
    }
}

const LAYERS: [Layer; 4] = [Layer::Bronze, Layer::Silver, Layer::Gold, Layer::Control];

impl CatalogProvider for LakeCatalog {
    fn schema_names(&self) -> Vec<String> {
        LAYERS.iter().map(|layer| layer.name()).chain([HISTORY, ANY]).map(str::to_owned).collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let tables = Arc::clone(&self.tables);
        let scope = match name {
            HISTORY => Scope::Histories,
            ANY => Scope::Any,
            _ => Scope::Layer(LAYERS.into_iter().find(|layer| layer.name() == name)?),
        };
        Some(Arc::new(LakeSchema { tables, scope }))
    }
}

#[derive(Debug, Clone, Copy)]
enum Scope {
    Layer(Layer),
    Histories,
    Any,
}

#[derive(Debug)]
struct LakeSchema {
    tables: Arc<Tables>,
    scope: Scope,
}

impl LakeSchema {
    fn spec(&self, name: &str) -> Option<&'static TableSpec> {
        ALL.into_iter().find(|spec| {
            spec.name == name
                && match self.scope {
                    Scope::Layer(layer) => spec.layer == layer,
                    Scope::Any => true,
                    Scope::Histories => false,
                }
        })
    }

    fn view(&self, name: &str) -> Option<View> {
        views::all().into_iter().find(|view| {
            view.name == name
                && match self.scope {
                    Scope::Layer(layer) => view.layer == layer,
                    Scope::Any => true,
                    Scope::Histories => false,
                }
        })
    }
}

#[async_trait]
impl SchemaProvider for LakeSchema {
    /// What `information_schema` lists; bare names and histories are other names of what stands in the layers.
    fn table_names(&self) -> Vec<String> {
        let Scope::Layer(layer) = self.scope else { return Vec::new() };
        let tables = ALL.into_iter().filter(|spec| spec.layer == layer).map(|spec| spec.name.to_owned());
        tables
            .chain(views::all().into_iter().filter(|view| view.layer == layer).map(|view| view.name.to_owned()))
            .collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if matches!(self.scope, Scope::Histories) {
            let Some(spec) = find(name) else { return Ok(None) };
            return history::table(&self.tables.lake, spec).await.map(Some).map_err(external);
        }
        if let Some(view) = self.view(name) {
            return self.tables.view(&view).await;
        }
        let Some(reference) = Reference::parse(name) else { return Ok(None) };
        match self.spec(&reference.name) {
            Some(spec) => self.tables.table(spec, reference.moment).await.map(Some),
            None => Ok(None),
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        match self.scope {
            Scope::Histories => find(name).is_some(),
            Scope::Layer(_) | Scope::Any => {
                self.view(name).is_some()
                    || Reference::parse(name).is_some_and(|reference| self.spec(&reference.name).is_some())
            }
        }
    }
}
