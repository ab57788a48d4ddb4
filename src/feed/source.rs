//! A feed as a person writes it: `sim`, `sim:rate=1000,seed=7`, `iex:FILE`, `kafka:FILE.toml`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// What a feed is to be made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The simulated market.
    Sim {
        /// Ticks per second.
        rate_ticks_per_s: f64,
        /// The same seed gives the same market.
        seed: u64,
        /// How many symbols trade.
        symbols: usize,
    },
    /// A capture in IEX-TP, at its own speed, once.
    Iex {
        /// The file.
        path: PathBuf,
    },
    /// Topics of Kafka.
    Kafka {
        /// The file that says which, and what their messages are.
        path: PathBuf,
    },
}

/// Why a text is no source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Not the name of a feed.
    #[error("\"{0}\" is no feed: write sim, sim:rate=1000,seed=7,symbols=500, iex:FILE, or kafka:FILE.toml")]
    Unknown(String),
    /// A setting the simulator does not have, or a value it does not take.
    #[error(
        "\"{0}\" is no setting of the simulator: it takes rate=0.1..100000000 (ticks/s), seed=NUMBER, symbols=1..{1}"
    )]
    Setting(String, usize),
}

/// Ticks per second of a simulator that is not told otherwise.
const RATE_DEFAULT: f64 = 2_000.0;

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown =
            || SourceError::Unknown(text.chars().take(64).collect::<String>().escape_debug().to_string());
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        match name {
            "sim" => {
                let symbols_max = super::sim::SYMBOLS_MAX;
                let (mut rate_ticks_per_s, mut seed, mut symbols) = (RATE_DEFAULT, 1, symbols_max);
                for setting in rest.split(',').filter(|setting| !setting.is_empty()) {
                    let refused = || SourceError::Setting(setting.escape_debug().to_string(), symbols_max);
                    let (key, value) = setting.split_once('=').ok_or_else(refused)?;
                    match key {
                        "rate" => {
                            rate_ticks_per_s = value.parse().map_err(|_| refused())?;
                            if !(0.1..=1e8).contains(&rate_ticks_per_s) {
                                return Err(refused());
                            }
                        }
                        "seed" => seed = value.parse().map_err(|_| refused())?,
                        "symbols" => {
                            symbols = value.parse().map_err(|_| refused())?;
                            if !(1..=symbols_max).contains(&symbols) {
                                return Err(refused());
                            }
                        }
                        _ => return Err(refused()),
                    }
                }
                Ok(Self::Sim { rate_ticks_per_s, seed, symbols })
            }
            "iex" if !rest.is_empty() => Ok(Self::Iex { path: rest.into() }),
            "kafka" if !rest.is_empty() => Ok(Self::Kafka { path: rest.into() }),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sim { rate_ticks_per_s, seed, symbols } => {
                write!(f, "sim: {rate_ticks_per_s} ticks/s, {symbols} symbols, seed {seed}")
            }
            Self::Iex { path } => write!(f, "iex: {}", path.display()),
            Self::Kafka { path } => write!(f, "kafka: {}", path.display()),
        }
    }
}
