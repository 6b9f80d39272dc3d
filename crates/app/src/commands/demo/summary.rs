//! What the demo tells a person at its end. Every figure is read back from the tables.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use arrow::util::display::array_value_to_string;
use futures::TryStreamExt as _;
use serde::Deserialize;
use uptake_ingest::consume::Summary;
use uptake_lake::Lake;
use uptake_lake::snapshot::Manifest;
use uptake_sample::Log;
use uptake_serve::{Options, Session};

use super::night::Night;
use super::text::{count, excerpt, wrap};
use super::{judge, queries};
use crate::columns::columns;

/// Longest text of the example that is shown, in characters.
const EXCERPT: usize = 600;

/// What there is to tell of.
pub(super) struct Shown<'a> {
    /// The lake as the user named it.
    pub(super) name: &'a str,
    pub(super) lake: &'a Lake,
    pub(super) log: &'a Log,
    pub(super) consumed: &'a Summary,
    pub(super) snapshots: &'a [Result<Manifest, String>],
    pub(super) night: Option<&'a Night>,
}

/// What `control.job_runs` holds of a run's report, as far as it is told here.
#[derive(Deserialize)]
struct JobRun {
    dropped: BTreeMap<String, u64>,
}

/// Rows of a query as text.
type Rows = Vec<Vec<String>>;

/// Asks one query.
async fn ask(session: &Session, query: &str) -> anyhow::Result<Rows> {
    let batches: Vec<_> = session.query(query).await?.rows.try_collect().await?;
    let mut rows = Rows::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().map(|column| array_value_to_string(column, row));
            rows.push(cells.collect::<Result<_, _>>()?);
        }
    }
    Ok(rows)
}

/// Rows of a bronze table by topic.
async fn by_topic(session: &Session, table: &str) -> anyhow::Result<HashMap<String, u64>> {
    let rows = ask(session, &format!("SELECT topic, count(*) FROM bronze.{table} GROUP BY topic")).await?;
    Ok(rows.into_iter().map(|row| (row[0].clone(), number(&row[1]))).collect())
}

fn heading<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(str::to_owned).to_vec()
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_default()
}

impl Shown<'_> {
    /// The whole summary, in lines of at most `width` characters.
    pub(super) async fn text(&self, width: usize) -> anyhow::Result<String> {
        let session = Session::open(self.lake.clone(), &Options::default())?;
        let mut text = String::new();
        for (title, body) in [
            ("What came in", self.came_in(&session).await?),
            ("What was refused, and why", self.refused(&session).await?),
            ("What users felt, by model version", Self::felt(&session).await?),
            ("How well the tagger read the follow-ups", self.read(&session, width).await?),
            ("Preference pairs, by rule", Self::pairs(&session).await?),
            ("An example", Self::example(&session, width).await?),
            ("The night", self.night.map(|night| night.text(self.name)).transpose()?.unwrap_or_default()),
            ("Where it is", self.places(&session).await?),
            ("Try next", self.next()),
        ] {
            if body.is_empty() {
                continue;
            }
            writeln!(text, "\n{title}\n{}\n{}", "─".repeat(title.chars().count()), body.trim_end())?;
        }
        Ok(text.trim_end().to_owned() + "\n")
    }

    async fn came_in(&self, session: &Session) -> anyhow::Result<String> {
        let (stored, letters) = (by_topic(session, "events").await?, by_topic(session, "dead_letters").await?);
        let mut table = vec![heading(["topic", "records", "stored", "refused", "repeats and tombstones"])];
        for (topic, oracle) in &self.log.oracle.topics {
            let get = |counts: &HashMap<String, u64>| counts.get(*topic).copied().unwrap_or_default();
            let (records, stored, refused) = (oracle.records as u64, get(&stored), get(&letters));
            let rest = records.saturating_sub(stored + refused);
            table.push(vec![(*topic).to_owned(), count(records), count(stored), count(refused), count(rest)]);
        }
        let facts = ask(
            session,
            "SELECT count(*), count(DISTINCT conversation_id), count(DISTINCT subject_key), min(conversation_date), max(conversation_date) \
             FROM silver.turns",
        )
        .await?;
        let mut text = columns(&table, "  ");
        if let Some([turns, conversations, people, first, last]) = facts.first().map(Vec::as_slice) {
            writeln!(
                text,
                "  {} messages in {} conversations of {} people, begun between {first} and {last}",
                count(number(turns)),
                count(number(conversations)),
                count(number(people))
            )?;
        }
        let oracle = &self.log.oracle;
        writeln!(
            text,
            "  of the reactions, {} came more than an hour late, {} before their message, {} to messages that do not exist",
            count(oracle.late_reactions),
            count(oracle.early_reactions),
            count(oracle.reactions_to_nothing)
        )?;
        if self.consumed.consumed == 0 {
            writeln!(text, "  this run found all of it stored already and added nothing")?;
        }
        Ok(text)
    }

    async fn refused(&self, session: &Session) -> anyhow::Result<String> {
        let query = "SELECT error_class, count(*) AS records, min(error) FROM bronze.dead_letters GROUP BY error_class \
                     ORDER BY records DESC, error_class";
        let mut table = vec![heading(["reason", "records", "for example"])];
        table.extend(ask(session, query).await?);
        let mut text = columns(&table, "  ");
        let query =
            "SELECT reason, count(*) AS events FROM silver.rejected GROUP BY reason ORDER BY events DESC, reason";
        let set_aside = ask(session, query).await?;
        if !set_aside.is_empty() {
            let reasons: Vec<String> =
                set_aside.iter().map(|row| format!("{} {}", count(number(&row[1])), row[0])).collect();
            writeln!(text, "  set aside later, on the way to silver: {}", reasons.join(", "))?;
        }
        Ok(text)
    }

    async fn felt(session: &Session) -> anyhow::Result<String> {
        let query = "SELECT model, count(*) AS answers, \
                     share(CASE WHEN follow_up_turn_id IS NOT NULL THEN array_has(labels, 'sat') END) AS satisfied, \
                     share(CASE WHEN follow_up_turn_id IS NOT NULL THEN array_has(labels, 'dsat') END) AS dissatisfied, \
                     share(regenerations > 0) AS regenerated \
                     FROM silver.exchanges WHERE model IS NOT NULL GROUP BY model ORDER BY model";
        let mut table =
            vec![heading(["model", "answers", "satisfied follow-ups", "dissatisfied follow-ups", "asked for again"])];
        for mut row in ask(session, query).await? {
            row[1] = count(number(&row[1]));
            table.push(row);
        }
        let mut text = columns(&table, "  ");
        text.push_str("  shares in percent, with their 95 % interval and the number of follow-ups or answers\n");
        let query = "SELECT sum(loves), sum(likes), sum(dislikes), sum(copies), count(*) FROM silver.exchanges";
        if let Some([loves, likes, dislikes, copies, answers]) = ask(session, query).await?.first().map(Vec::as_slice) {
            let shown = |text: &str| count(number(text));
            writeln!(
                text,
                "  reactions that stand on {} answers: {} loves, {} likes, {} dislikes, {} copies",
                shown(answers),
                shown(loves),
                shown(likes),
                shown(dislikes),
                shown(copies)
            )?;
        }
        let query = "SELECT count(*), count(DISTINCT subject_key) FROM silver.reactions \
                     WHERE op = 'set' AND subject_key IN ( \
                         SELECT subject_key FROM silver.reactions WHERE op = 'set' AND kind IN ('love', 'thumbs_down') \
                         GROUP BY subject_key HAVING count(*) >= 10 AND count(DISTINCT kind) = 1)";
        if let Some([reactions, people]) = ask(session, query).await?.first().map(Vec::as_slice) {
            let people = number(people);
            if people > 0 {
                writeln!(
                    text,
                    "  {} of all reactions come from {} whose reactions are all of one kind; training weighs them down",
                    count(number(reactions)),
                    if people == 1 { "one person".to_owned() } else { format!("{people} people") },
                )?;
            }
        }
        Ok(text)
    }

    async fn read(&self, session: &Session, width: usize) -> anyhow::Result<String> {
        let query = "SELECT follow_up_turn_id, array_has(labels, 'sat'), array_has(labels, 'dsat'), tagger_id FROM silver.signals";
        let rows = ask(session, query).await?;
        let version = rows.first().map(|row| row[3].clone()).unwrap_or_default();
        let tagged: HashMap<String, (bool, bool)> =
            rows.into_iter().map(|row| (row[0].clone(), (row[1] == "true", row[2] == "true"))).collect();
        let (sat, dsat) = judge::scores(&self.log.oracle.follow_ups, &tagged);
        let mut table = vec![heading(["", "of those tagged, carry it", "of those that carry it, tagged"])];
        for (name, score) in [("satisfaction", sat), ("dissatisfaction", dsat)] {
            table.push(vec![name.to_owned(), score.precision(), score.recall()]);
        }
        let about = format!(
            "{version} read {} follow-ups. The generator knows what {} of them say; their texts were kept from its training.",
            count(tagged.len()),
            count(
                self.log.oracle.follow_ups.iter().filter(|follow_up| tagged.contains_key(&follow_up.turn_id)).count()
            )
        );
        Ok(columns(&table, "  ") + &wrap(&about, "  ", width))
    }

    async fn pairs(session: &Session) -> anyhow::Result<String> {
        let query = "SELECT rule_id, count(*) AS pairs, count(DISTINCT conversation_id), round(avg(strength), 2) \
                     FROM gold.preference_pairs GROUP BY rule_id ORDER BY pairs DESC, rule_id";
        let mut table = vec![heading(["rule", "pairs", "conversations", "mean strength"])];
        for mut row in ask(session, query).await? {
            row[1] = count(number(&row[1]));
            row[3] = format!("{:.2}", row[3].parse::<f64>().unwrap_or_default());
            table.push(row);
        }
        let mut text = columns(&table, "  ");
        // From the journal of the runs, not from this run: one that found everything done drops nothing.
        let query = "SELECT pipeline, report FROM ( \
                         SELECT *, row_number() OVER (PARTITION BY pipeline ORDER BY started_at DESC) AS place \
                         FROM control.job_runs WHERE output = 'gold.preference_pairs' AND status = 'built') \
                     WHERE place = 1 ORDER BY pipeline";
        for row in ask(session, query).await? {
            let report: JobRun = serde_json::from_str(&row[1])?;
            let mut reasons: Vec<_> = report.dropped.into_iter().collect();
            reasons.sort_by_key(|(_, rows)| std::cmp::Reverse(*rows));
            let reasons: Vec<String> =
                reasons.into_iter().map(|(reason, rows)| format!("{} {reason}", count(rows))).collect();
            if !reasons.is_empty() {
                writeln!(text, "  {} left out: {}", row[0], reasons.join(", "))?;
            }
        }
        Ok(text)
    }

    /// The strongest repair, or whatever pair there is.
    async fn example(session: &Session, width: usize) -> anyhow::Result<String> {
        let query = "SELECT p.rule_id, coalesce(p.model, ''), last_user_message(p.prompt), message_text(p.rejected, 1), \
                     coalesce(e.follow_up, ''), message_text(p.chosen, 1), round(p.strength, 2) \
                     FROM gold.preference_pairs p JOIN silver.exchanges e ON e.turn_id = p.rejected_turn_id \
                     ORDER BY CASE p.rule_id WHEN 'repair' THEN 0 ELSE 1 END, p.strength DESC, p.pair_id LIMIT 1";
        let rows = ask(session, query).await?;
        let Some([rule, model, prompt, rejected, follow_up, chosen, strength]) = rows.first().map(Vec::as_slice) else {
            return Ok("  no pair came together; a larger log (--conversations) has some\n".to_owned());
        };
        let mut text = format!("  rule {rule}, model {model}, strength {strength}\n");
        for (who, said) in [
            ("the user asked", prompt),
            ("rejected answer", rejected),
            ("the user replied", follow_up),
            ("chosen answer", chosen),
        ] {
            if !said.is_empty() {
                writeln!(text, "  {who}:")?;
                text.push_str(&wrap(&excerpt(said, EXCERPT), "    │ ", width));
            }
        }
        Ok(text)
    }

    async fn places(&self, session: &Session) -> anyhow::Result<String> {
        let mut text = format!("  {}\n", self.lake.url());
        for layer in ["bronze", "silver", "gold"] {
            let mut shown = Vec::new();
            for relation in
                session.relations().into_iter().filter(|relation| relation.layer == layer && relation.kind == "table")
            {
                let rows = ask(session, &format!("SELECT count(*) FROM {layer}.{}", relation.name)).await?;
                let rows = rows.first().map_or(0, |row| number(&row[0]));
                shown.push(format!("{} ({})", relation.name, count(rows)));
            }
            writeln!(text, "  {:9} {}", format!("{layer}/"), shown.join(", "))?;
        }
        for snapshot in self.snapshots {
            match snapshot {
                Ok(manifest) => {
                    let rows: Vec<String> =
                        manifest.rows.iter().map(|(split, rows)| format!("{split} {}", count(*rows))).collect();
                    writeln!(text, "  snapshots/{}/{}  {}", manifest.name, manifest.id, rows.join(", "))?;
                }
                Err(reason) => writeln!(text, "  not published: {reason}")?,
            }
        }
        Ok(text)
    }

    fn next(&self) -> String {
        let mut text = String::new();
        for (what, query) in queries::QUERIES {
            let _ = write!(text, "  # {what}\n  uptake --lake {} sql \"{query}\"\n", self.name);
        }
        text
    }
}
