//! Columns as kubectl aligns them.

/// Spaces between the columns of a list.
pub(super) const OF_LISTS: usize = 3;
/// Spaces between the columns of a description.
pub(super) const OF_DESCRIPTIONS: usize = 2;

/// Rows of cells, each column as wide as its widest cell, `gap` spaces between, the last column as it is.
pub(super) fn columns(rows: &[Vec<String>], gap: usize) -> String {
    Columns::new(gap).lines(rows)
}

/// A table that grows: its columns stay as wide as the widest cell so far.
pub(super) struct Columns {
    gap: usize,
    widths: Vec<usize>,
}

impl Columns {
    pub(super) fn new(gap: usize) -> Self {
        Self {
            gap,
            widths: Vec::new(),
        }
    }

    /// More rows, as lines.
    pub(super) fn lines(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            self.widths.resize(self.widths.len().max(row.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in rows {
            for (column, cell) in row.iter().enumerate() {
                text.push_str(cell);
                if column + 1 < row.len() {
                    let spaces = self.widths[column] + self.gap - cell.chars().count();
                    text.extend(std::iter::repeat_n(' ', spaces));
                }
            }
            text.push('\n');
        }
        text
    }
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

    #[test]
    fn a_table_that_grows_keeps_its_columns() {
        let mut table = Columns::new(OF_LISTS);
        let row = |row: [&str; 2]| [row.map(str::to_owned).to_vec()];
        assert_eq!(table.lines(&row(["NAME", "AGE"])), "NAME   AGE\n");
        assert_eq!(table.lines(&row(["longer", "5m"])), "longer   5m\n");
        assert_eq!(table.lines(&row(["a", "6m"])), "a        6m\n");
    }
}
