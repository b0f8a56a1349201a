//! Columns as kubectl aligns them.

/// Spaces between the columns of a list.
pub(super) const OF_LISTS: usize = 3;
/// Spaces between the columns of a description.
pub(super) const OF_DESCRIPTIONS: usize = 2;

/// Rows of cells, each column as wide as its widest cell, `gap` spaces between, the last column as it is.
pub(super) fn columns(rows: &[Vec<String>], gap: usize) -> String {
    let many = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..many).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                let spaces = widths[column] + gap - cell.chars().count();
                text.extend(std::iter::repeat_n(' ', spaces));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_column_is_as_wide_as_its_widest_cell() {
        let rows = [
            ["NAME", "READY", "AGE"],
            ["a-long-name", "1/1", "5m"],
            ["ö", "", ""],
        ];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            columns(&rows, OF_LISTS),
            "NAME          READY   AGE\na-long-name   1/1     5m\nö                     \n"
        );
        assert_eq!(columns(&[], OF_LISTS), "");
    }
}
