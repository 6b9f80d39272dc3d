//! `uptake tag --explain`: explanations as text, as a page, as lines of JSON.

use std::io::{self, BufRead, Write};

use indicatif::{ProgressBar, ProgressDrawTarget};
use uptake_model::labels::{OUTPUTS, output_name};
use uptake_tagger::explain::{Against, Reach, Wanted};
use uptake_tagger::lines::{self, Explained, Progress};
use uptake_tagger::{Error, Tagger};

use super::page::Page;
use super::record::record;
use super::{Tag, text, told, whole};

/// Forward passes for a follow-up where nothing is said: enough for each word of what a small encoder reads.
pub(super) const PASSES: usize = 256;

/// Reads the name of an output.
pub(super) fn output(name: &str) -> Result<usize, String> {
    let names = || (0..OUTPUTS).filter_map(output_name).collect::<Vec<_>>().join(", ");
    let found = (0..OUTPUTS).find(|output| output_name(*output) == Some(name));
    found.ok_or_else(|| format!("the labels are {}", names()))
}

/// Reads a number of passes.
pub(super) fn passes(text: &str) -> Result<usize, String> {
    let most = 100_000;
    let number = text.parse().ok().filter(|number| (Reach::FEWEST..=most).contains(number));
    number.ok_or_else(|| format!("a number from {} to {most} is needed", Reach::FEWEST))
}

/// A relation in words.
pub(super) const fn relation(against: Against) -> &'static str {
    match against {
        Against::LastUser => "the follow-up to the last user message",
        Against::EarlierUser => "the follow-up to an earlier user message",
        Against::EarlierResponse => "the response to an earlier response",
    }
}

/// Whether whoever read the output went away.
pub(super) fn reader_left(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Stream { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe)
}

impl Tag {
    pub(super) fn explain(
        &self,
        tagger: &Tagger,
        input: Box<dyn BufRead>,
        bar: &ProgressBar,
    ) -> anyhow::Result<Progress> {
        let mut page = self.html.is_some().then(Page::default);
        let done = match &self.output {
            Some(path) => whole(path, |output| self.explain_into(tagger, input, Some(output), page.as_mut(), bar))?,
            None => self.explain_into(tagger, input, None, page.as_mut(), bar)?,
        };
        if let (Some(path), Some(page)) = (&self.html, page) {
            let html = page.finish(&self.file.display().to_string(), tagger.version(), &done);
            whole(path, |output| Ok(output.write_all(html.as_bytes())?))?;
        }
        Ok(done)
    }

    /// Hands each explanation to whoever wants it: the lines, the page, or, where there is neither, the standard output.
    fn explain_into(
        &self,
        tagger: &Tagger,
        input: Box<dyn BufRead>,
        mut records: Option<&mut dyn Write>,
        mut page: Option<&mut Page>,
        bar: &ProgressBar,
    ) -> anyhow::Result<Progress> {
        let as_text = records.is_none() && page.is_none();
        let colours = console::colors_enabled();
        let thresholds = tagger.thresholds();
        let mut quiet = 0_u64;
        if as_text && console::user_attended() {
            // A bar would be drawn into the text.
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let wanted = if self.labels.is_empty() { Wanted::Firing } else { Wanted::Outputs(distinct(&self.labels)) };
        let reach = Reach { wanted, passes: self.passes };
        let take = |explained: &Explained<'_>| -> io::Result<()> {
            if let Some(output) = records.as_deref_mut() {
                serde_json::to_writer(&mut *output, &record(explained, thresholds, tagger.version()))?;
                output.write_all(b"\n")?;
            }
            if let Some(page) = page.as_deref_mut() {
                page.add(explained, thresholds);
            }
            if as_text {
                let shown = text::explanation(explained, thresholds, colours);
                quiet += u64::from(shown.is_empty());
                io::stdout().lock().write_all(shown.as_bytes())?;
            }
            Ok(())
        };
        let done = lines::explain_lines(tagger, input, &reach, self.bad_lines(), |event| told(&event, bar), take)?;
        if as_text && quiet > 0 {
            writeln!(io::stdout(), "{quiet} of {} follow-ups fire no label", done.follow_ups)?;
        }
        Ok(done)
    }
}

fn distinct(outputs: &[usize]) -> Vec<usize> {
    let mut outputs = outputs.to_vec();
    outputs.sort_unstable();
    outputs.dedup();
    outputs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_passes_are_read_and_others_refused() {
        assert_eq!((output("gratitude"), output("dsat")), (Ok(0), Ok(19)));
        assert!(output("thanks").unwrap_err().contains("gratitude, learning"));
        assert_eq!(passes("16"), Ok(16));
        for bad in ["15", "-1", "x", "", "1000000"] {
            assert!(passes(bad).is_err(), "{bad}");
        }
    }
}
