//! Rows as text for people.

/// Rows in columns, the first row as heading, numbers to the right.
pub(crate) fn columns(rows: &[Vec<String>], indent: &str) -> String {
    let count = rows.first().map_or(0, Vec::len);
    let is_number =
        |text: &str| !text.is_empty() && text.chars().all(|letter| letter.is_ascii_digit() || ",.".contains(letter));
    let mut text = String::new();
    let shape: Vec<(usize, bool)> = (0..count)
        .map(|column| {
            let cells = || rows.iter().filter_map(move |row| row.get(column));
            let width = cells().map(|cell| cell.chars().count()).max().unwrap_or_default();
            (width, rows.len() > 1 && cells().skip(1).all(|cell| is_number(cell)))
        })
        .collect();
    for row in rows {
        let mut line = indent.to_owned();
        for (cell, (width, number)) in row.iter().zip(&shape) {
            let padding = " ".repeat(width - cell.chars().count());
            if *number {
                line.push_str(&padding);
                line.push_str(cell);
            } else {
                line.push_str(cell);
                line.push_str(&padding);
            }
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right() {
        let rows = [["topic", "rows"], ["chat", "7"], ["gateway", "1,200"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(columns(&rows, ""), "topic     rows\nchat         7\ngateway  1,200\n");
    }
}
