//! Columns for people.
//!
//! The widths follow from the first rows; rows after them are written as they come. On a terminal the widest columns give
//! way until the table fits, long texts wrap, and a table with too many columns is shown as records.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use unicode_width::UnicodeWidthStr;

use super::RowWriter;
use super::cells::{text, wrap};
use crate::error::Result;

/// Rows that decide about widths.
const MEASURED: usize = 1000;
/// A column narrower than this says nothing; then rows become records.
const NARROWEST: usize = 8;

/// How a table is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableStyle {
    /// Columns of the terminal; none: as wide as the content.
    pub width: Option<usize>,
    /// Lines of one cell on a terminal before it is cut.
    pub lines: usize,
}

impl Default for TableStyle {
    fn default() -> Self {
        Self { width: None, lines: 8 }
    }
}

/// What the first rows decided.
enum Layout {
    Columns(Vec<usize>),
    Records { label: usize, value: usize },
}

pub(super) struct TableWriter<'a> {
    names: Vec<String>,
    right: Vec<bool>,
    style: TableStyle,
    output: Box<dyn Write + Send + 'a>,
    held: Vec<Vec<String>>,
    layout: Option<Layout>,
    written: usize,
}

impl<'a> TableWriter<'a> {
    pub(super) fn new(schema: &SchemaRef, style: TableStyle, output: Box<dyn Write + Send + 'a>) -> Self {
        let fields = schema.fields();
        Self {
            names: fields.iter().map(|field| field.name().clone()).collect(),
            right: fields.iter().map(|field| field.data_type().is_numeric()).collect(),
            style,
            output,
            held: Vec::new(),
            layout: None,
            written: 0,
        }
    }

    fn begin(&mut self) -> Result<()> {
        let layout = self.measure();
        match &layout {
            Layout::Columns(widths) => {
                let names = self.names.clone();
                write_row(&mut self.output, &names, widths, &vec![false; names.len()], 2)?;
                let rule = widths.iter().map(|width| "─".repeat(width + 2)).collect::<Vec<_>>().join("┼");
                writeln!(self.output, "{rule}")?;
            }
            // Records name their columns; where there are none, the names are all there is to show.
            Layout::Records { label, value } if self.held.is_empty() => {
                for line in wrap(&self.names.join(" │ "), label + value, usize::MAX) {
                    writeln!(self.output, "{line}")?;
                }
            }
            Layout::Records { .. } => {}
        }
        self.layout = Some(layout);
        for row in std::mem::take(&mut self.held) {
            self.put(&row)?;
        }
        Ok(())
    }

    fn measure(&self) -> Layout {
        let mut natural: Vec<usize> = self.names.iter().map(|name| name.width()).collect();
        for row in &self.held {
            for (width, cell) in natural.iter_mut().zip(row) {
                *width = cell.split('\n').map(UnicodeWidthStr::width).max().unwrap_or(0).max(*width);
            }
        }
        let Some(width) = self.style.width else { return Layout::Columns(natural) };
        // A space on each side of a cell and a line between cells.
        let room = width.saturating_sub(natural.len() * 3);
        if let Some(widths) = fit(&natural, room) {
            return Layout::Columns(widths);
        }
        let label = self.names.iter().map(|name| name.width()).max().unwrap_or(0);
        Layout::Records { label, value: width.saturating_sub(label + 3).max(20) }
    }

    fn put(&mut self, row: &[String]) -> Result<()> {
        let lines = if self.style.width.is_some() { self.style.lines } else { usize::MAX };
        self.written += 1;
        match &self.layout {
            Some(Layout::Columns(widths)) => write_row(&mut self.output, row, widths, &self.right, lines),
            Some(Layout::Records { label, value }) => {
                writeln!(
                    self.output,
                    "── row {} {}",
                    self.written,
                    "─".repeat((label + value).saturating_sub(8).min(60))
                )?;
                for (name, cell) in self.names.iter().zip(row) {
                    for (at, line) in wrap(cell, *value, lines).iter().enumerate() {
                        let name = if at == 0 { name.as_str() } else { "" };
                        writeln!(self.output, "{}{name} │ {line}", " ".repeat(label.saturating_sub(name.width())))?;
                    }
                }
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl RowWriter for TableWriter<'_> {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        for row in 0..batch.num_rows() {
            let cells: Vec<String> = batch.columns().iter().map(|column| text(column, row)).collect();
            if self.layout.is_some() {
                self.put(&cells)?;
                continue;
            }
            self.held.push(cells);
            if self.held.len() == MEASURED {
                self.begin()?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        if self.layout.is_none() {
            self.begin()?;
        }
        Ok(self.output.flush()?)
    }
}

/// Widths that sum to at most `room`: narrow columns keep theirs, wide ones share the rest. None when that leaves too little.
fn fit(natural: &[usize], room: usize) -> Option<Vec<usize>> {
    if natural.iter().sum::<usize>() <= room {
        return Some(natural.to_vec());
    }
    let mut order: Vec<usize> = (0..natural.len()).collect();
    order.sort_by_key(|at| natural[*at]);
    let mut widths = vec![0; natural.len()];
    let mut left = room;
    for (done, at) in order.iter().enumerate() {
        let share = left / (natural.len() - done);
        widths[*at] = natural[*at].min(share);
        if widths[*at] < natural[*at].min(NARROWEST) {
            return None;
        }
        left -= widths[*at];
    }
    Some(widths)
}

fn write_row(
    output: &mut (impl Write + ?Sized),
    cells: &[String],
    widths: &[usize],
    right: &[bool],
    most: usize,
) -> Result<()> {
    let wrapped: Vec<Vec<String>> = cells.iter().zip(widths).map(|(cell, width)| wrap(cell, *width, most)).collect();
    let height = wrapped.iter().map(Vec::len).max().unwrap_or(1);
    for line in 0..height {
        let mut text = String::new();
        for (at, (lines, width)) in wrapped.iter().zip(widths).enumerate() {
            let cell = lines.get(line).map_or("", String::as_str);
            let padding = " ".repeat(width.saturating_sub(cell.width()));
            if at > 0 {
                text.push('│');
            }
            text.push(' ');
            if right.get(at) == Some(&true) {
                text.push_str(&padding);
                text.push_str(cell);
            } else {
                text.push_str(cell);
                text.push_str(&padding);
            }
            text.push(' ');
        }
        writeln!(output, "{}", text.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_columns_share_what_narrow_ones_leave() {
        assert_eq!(fit(&[4, 5], 20), Some(vec![4, 5]));
        assert_eq!(fit(&[4, 100, 100], 44), Some(vec![4, 20, 20]));
        assert_eq!(fit(&[100, 4, 30], 44), Some(vec![20, 4, 20]));
        assert_eq!(fit(&[50; 10], 40), None);
        assert_eq!(fit(&[3; 3], 9), Some(vec![3; 3]));
    }
}
