//! The table contracts in `schemas/tables`, generated from `model::tables` and held to them.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use uptake_model::tables::{self, TableSpec};

use crate::schemas;

fn contract(spec: &TableSpec) -> String {
    let columns: Vec<Value> = spec
        .columns
        .iter()
        .map(|column| {
            json!({
                "name": column.name,
                "type": column.kind.name(),
                "nullable": column.nullable,
                "personal": column.personal,
                "meaning": column.meaning,
            })
        })
        .collect();
    let contract = json!({
        "table": spec.qualified(),
        "path": spec.path(),
        "grain": spec.grain,
        "key": spec.key,
        "partition": spec.partition,
        "order": spec.order,
        "statistics": spec.statistics,
        "columns": columns,
    });
    serde_json::to_string_pretty(&contract).unwrap() + "\n"
}

#[test]
fn tables_are_what_the_contracts_say() {
    let update = std::env::var_os("UPDATE_SCHEMAS").is_some();
    let mut expected = BTreeSet::new();
    for spec in tables::ALL {
        let name = format!("{}.json", spec.qualified());
        let path = schemas(&format!("tables/{name}"));
        let _ = expected.insert(name.clone());
        let contract = contract(spec);
        if update {
            std::fs::write(&path, &contract).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == contract,
            "schemas/tables/{name} is not what the code says; if the change is meant (see schemas/README.md), run \
             `UPDATE_SCHEMAS=1 cargo test -p uptake-model --test contracts tables` and commit it"
        );
    }
    for entry in std::fs::read_dir(schemas("tables")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(expected.contains(&name), "schemas/tables/{name} belongs to no table");
    }
}
