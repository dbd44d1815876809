//! Random queries from a small grammar, which knows the databases that it names, and random texts.

use fastrand::Rng;

use crate::http::influxdb3::influxql::database;

/// A random query, and the databases that Core reads for it. `None` is the one beside the query.
struct Generator {
    random: Rng,
    touched: Vec<Option<&'static str>>,
    /// Whether it changes something, or reads all databases.
    is_forbidden: bool,
}

impl Generator {
    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.random.usize(..choices.len())]
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.random.u32(..one_in) == 0
    }

    fn space(&mut self) -> &'static str {
        self.pick(&[" ", " ", " ", "  ", "\n", "\t"])
    }

    /// A word in any case.
    fn word(&mut self, word: &str) -> String {
        match self.pick(&[0, 1, 2]) {
            0 => word.to_ascii_uppercase(),
            1 => word.to_ascii_lowercase(),
            _ => word
                .chars()
                .enumerate()
                .map(|(at, c)| if at % 2 == 0 { c } else { c.to_ascii_lowercase() })
                .collect(),
        }
    }

    fn quote(&mut self, name: &str) -> String {
        if self.chance(2) { name.to_owned() } else { format!("\"{name}\"") }
    }

    fn database(&mut self) -> &'static str {
        self.pick(&["db", "db", "db", "db", "other"])
    }

    /// A measurement, which touches a database.
    fn measurement(&mut self) -> String {
        let name = self.pick(&[
            "m",
            "n",
            "\"other..x\"",
            "\"a; SHOW DATABASES\"",
            "\"it\\\"s\"",
            "/c.u/",
            "/a\\/b/",
        ]);
        if self.chance(2) {
            self.touched.push(None);
            return name.to_owned();
        }
        let (database, policy) = (self.database(), self.pick(&["", "autogen", "\"autogen\""]));
        self.touched.push(Some(database));
        format!("{}.{policy}.{name}", self.quote(database))
    }

    fn expression(&mut self, depth: u32) -> String {
        match self.random.u32(..if depth == 0 { 6 } else { 9 }) {
            0 => self.pick(&["a", "\"b c\"", "\"from\"", "usage_idle"]).to_owned(),
            1 => self.pick(&["1", "2.5", "1h30m", "7d"]).to_owned(),
            2 => self.pick(&["a::field", "a::float", "*::tag"]).to_owned(),
            3 => self.pick(&["'x'", "'/*'", "'a''"]).replace("''", "\\''"),
            4 => self.pick(&["'; INTO x'", "'\\\\'", "'\\n'", "$p"]).to_owned(),
            5 => self.pick(&["mean(a)", "max(/u/)", "now()"]).to_owned(),
            6 => format!("({})", self.expression(depth - 1)),
            _ => {
                let operator = self.pick(&["+", "-", "*", "/", "%"]);
                let (left, right) = (self.expression(depth - 1), self.expression(depth - 1));
                format!("{left}{}{operator} {right}", if self.chance(2) { "" } else { " " })
            }
        }
    }

    fn condition(&mut self) -> String {
        let left = self.expression(1);
        match self.random.u32(..3) {
            0 => format!("{left} = {}", self.expression(1)),
            1 => format!("{left} =~ /x y/"),
            _ => format!("({left} > 1 {} b !~ /z/)", self.word("AND")),
        }
    }

    fn sources(&mut self, depth: u32) -> String {
        let count = self.pick(&[1, 1, 1, 2]);
        let sources: Vec<_> = (0..count)
            .map(|_| {
                if depth > 0 && self.chance(4) {
                    format!("({})", self.select(depth - 1))
                } else {
                    self.measurement()
                }
            })
            .collect();
        sources.join(", ")
    }

    fn select(&mut self, depth: u32) -> String {
        let mut query = self.word("SELECT") + self.space();
        query += &self.expression(2);
        if self.chance(25) {
            self.is_forbidden = true;
            query = format!("{query} {} x", self.word("INTO"));
        }
        query = format!("{query}{}{}{}", self.space(), self.word("FROM"), self.space());
        query += &self.sources(depth);
        if self.chance(2) {
            query = format!("{query} {} {}", self.word("WHERE"), self.condition());
        }
        if self.chance(3) {
            let group = self.pick(&["*", "t", "time(1m), t", "/t/"]);
            query = format!("{query} {} {} {group}", self.word("GROUP"), self.word("BY"));
        }
        if self.chance(4) {
            query += " LIMIT 5";
        }
        query
    }

    fn show(&mut self) -> String {
        if self.chance(12) {
            self.is_forbidden = true;
            return self
                .pick(&["SHOW DATABASES", "SHOW\tdatabases", "SHOW MEASUREMENTS ON *", "SHOW USERS"])
                .to_owned();
        }
        let what = self.pick(&["MEASUREMENTS", "TAG KEYS", "FIELD KEYS", "RETENTION POLICIES"]);
        let mut query = self.word("SHOW") + self.space() + &self.word(what);
        if self.chance(2) {
            let database = self.database();
            self.touched.push(Some(database));
            query = format!("{query} {} {}", self.word("ON"), self.quote(database));
        } else {
            self.touched.push(None);
        }
        query
    }

    fn query(&mut self) -> String {
        let mut query = String::new();
        for at in 0..self.pick(&[1, 1, 1, 2, 3]) {
            if at > 0 {
                // Core needs no separator.
                let separator = if self.chance(10) {
                    self.is_forbidden = true;
                    " "
                } else {
                    self.pick(&["; ", ";", ";;\n"])
                };
                query += separator;
            }
            if self.chance(30) {
                self.is_forbidden = true;
                query += self.pick(&["DROP MEASUREMENT m", "DELETE FROM m", "CREATE DATABASE x", "EXPLAIN "]);
            }
            query += &if self.chance(3) { self.show() } else { self.select(2) };
        }
        query
    }
}

#[test]
fn random_queries_read_no_other_database() {
    let (mut accepted, mut refused) = (0, 0);
    for seed in [1, 2, 3, 5, 8, 13, 21, 34, 55, 89] {
        let mut generator =
            Generator { random: Rng::with_seed(seed), touched: Vec::new(), is_forbidden: false };
        for _ in 0..2000 {
            generator.touched.clear();
            generator.is_forbidden = false;
            let query = generator.query();
            for default in [Some("db"), None] {
                let is_one =
                    |name: &str| generator.touched.iter().all(|touched| touched.or(default) == Some(name));
                match database(&query, default) {
                    Ok(name) => {
                        assert!(!generator.is_forbidden, "{query:?}");
                        assert!(default.is_none_or(|default| default == name), "{query:?} is for {name}");
                        // Core refuses a statement that names a database for a part of its names.
                        let named =
                            |touched: &Option<_>| touched.is_none() || *touched == Some(name.as_str());
                        let is_mixed = default.is_none() && generator.touched.iter().all(named);
                        assert!(is_one(&name) || is_mixed, "{query:?} touches {:?}", generator.touched);
                        accepted += 1;
                    }
                    Err(reason) => {
                        let is_simple = is_one("db") && !generator.is_forbidden;
                        assert!(!is_simple, "{query:?}: {reason}");
                        refused += 1;
                    }
                }
            }
        }
    }
    assert!(accepted > 5000 && refused > 5000, "{accepted} accepted, {refused} refused");
}

/// Parts of hostile texts.
const PARTS: [&str; 44] = [
    "SELECT ",
    "FROM ",
    "SHOW ",
    "ON ",
    "INTO ",
    "DATABASES",
    "MEASUREMENTS ",
    "WHERE ",
    "GROUP BY ",
    "db",
    "other",
    "autogen",
    "m",
    ".",
    "..",
    "\"",
    "'",
    "\\",
    "/",
    "*",
    "(",
    ")",
    ",",
    ";",
    "=~ ",
    "=",
    "-",
    "--",
    "/*",
    "*/",
    "::",
    "$",
    "1",
    "1m",
    "1.5",
    " ",
    "\n",
    "\r",
    "\t",
    "\u{e9}",
    "\"db\"",
    "'x'",
    "/x/",
    "TAG KEYS ",
];

#[test]
fn hostile_texts_name_the_default_or_nothing() {
    let mut accepted = 0;
    for seed in [1, 2, 3, 5, 8, 13, 21, 34] {
        let mut random = Rng::with_seed(seed);
        for _ in 0..20_000 {
            let count = random.usize(..14);
            let tail: String = (0..count).map(|_| PARTS[random.usize(..PARTS.len())]).collect();
            let query = format!("SELECT a FROM m {tail}");
            let Ok(name) = database(&query, Some("db")) else { continue };
            accepted += 1;
            assert_eq!(name, "db");
            // What stands in quotes is no name of another database here, as no part has both.
            let is_plain = !query.contains(['"', '\'', '/', '$']);
            assert!(!is_plain || !query.contains("other.") || query.contains("autogen.other"), "{query:?}");
            let is_word = |word| query.split(|c: char| !c.is_ascii_alphanumeric()).any(|found| found == word);
            assert!(!is_plain || !is_word("DATABASES") && !is_word("INTO"), "{query:?}");
        }
    }
    assert!(accepted > 500, "{accepted}");
}
