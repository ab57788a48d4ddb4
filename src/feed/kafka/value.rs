//! A field's value, whatever format it came in: text, an exact decimal, an instant.

use std::borrow::Cow;

use crate::market::Timestamp;

/// What stood in a field. No float: a number is the decimal text it was written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A text.
    Text(Cow<'a, str>),
    /// A number, exactly.
    Decimal(Cow<'a, str>),
    /// A binary floating point number, by its shortest decimal print.
    Float(String),
    /// A point in time, by the format's own type for it.
    Instant(Timestamp),
    /// A truth.
    Bool(bool),
    /// Several values.
    List(Vec<Value<'a>>),
    /// Something that no field of a tick can be, by its name.
    Other(&'static str),
}

impl Value<'_> {
    /// A whole number.
    pub(super) fn integer(value: impl Into<i128>) -> Value<'static> {
        Value::Decimal(value.into().to_string().into())
    }

    /// The whole number `unscaled` × 10^−`scale`.
    pub(super) fn scaled(unscaled: i128, scale: usize) -> Value<'static> {
        let sign = if unscaled < 0 { "-" } else { "" };
        let digits = format!("{:0width$}", unscaled.unsigned_abs(), width = scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        let point = if scale > 0 { "." } else { "" };
        Value::Decimal(format!("{sign}{whole}{point}{fraction}").into())
    }

    /// A floating point number.
    pub(super) fn float(value: f64) -> Value<'static> {
        Value::Float(value.to_string())
    }

    /// How an error shows it.
    pub(super) fn shown(&self) -> String {
        let text = match self {
            Value::Text(text) => format!("\"{}\"", text.escape_debug()),
            Value::Decimal(text) => text.to_string(),
            Value::Float(text) => text.clone(),
            Value::Instant(ts) => ts.to_string(),
            Value::Bool(truth) => truth.to_string(),
            Value::List(values) => format!("a list of {}", values.len()),
            Value::Other(what) => (*what).to_owned(),
        };
        text.chars().take(64).collect()
    }
}

/// Why a text is not the number that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberError {
    /// Not a decimal number.
    NotDecimal,
    /// It has more decimals than are kept.
    TooPrecise,
    /// It has more digits than fit.
    OutOfRange,
}

/// The most digits of a number that is read.
const DIGITS_MAX: usize = 64;

/// `text` × 10^`power`, where that is a whole number: `-?digits[.digits]`, with an optional
/// exponent.
pub(super) fn whole(text: &str, power: i32) -> Result<i128, NumberError> {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i16>().map_err(|_| NumberError::NotDecimal)?),
        None => (text, 0),
    };
    let (is_negative, unsigned) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (before, after) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits = || before.bytes().chain(after.bytes());
    if before.is_empty() && after.is_empty() || !digits().all(|digit| digit.is_ascii_digit()) {
        return Err(NumberError::NotDecimal);
    }
    if unsigned.len() > DIGITS_MAX {
        return Err(NumberError::OutOfRange);
    }
    let mut magnitude: i128 = 0;
    let times_ten = |magnitude: i128, digit: u8| {
        let grown = magnitude.checked_mul(10).and_then(|grown| grown.checked_add(i128::from(digit)));
        grown.ok_or(NumberError::OutOfRange)
    };
    for digit in digits() {
        magnitude = times_ten(magnitude, digit - b'0')?;
    }
    let mut shift = i32::from(exponent) + power - after.len() as i32;
    while shift > 0 && magnitude != 0 {
        magnitude = times_ten(magnitude, 0)?;
        shift -= 1;
    }
    while shift < 0 && magnitude != 0 {
        if magnitude % 10 != 0 {
            return Err(NumberError::TooPrecise);
        }
        magnitude /= 10;
        shift += 1;
    }
    Ok(if is_negative { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_scaled_exactly() {
        for (text, power, expected) in [
            ("190.45", 9, Ok(190_450_000_000)),
            ("-0.000000001", 9, Ok(-1)),
            ("1.9045e2", 4, Ok(1_904_500)),
            ("19045E-2", 9, Ok(190_450_000_000)),
            ("100.0", 0, Ok(100)),
            (".5", 1, Ok(5)),
            ("5.", 0, Ok(5)),
            ("+7", 0, Ok(7)),
            ("0e9999", 9, Ok(0)),
            ("1.0000000001", 9, Err(NumberError::TooPrecise)),
            ("1.5", 0, Err(NumberError::TooPrecise)),
            ("1e4000", 9, Err(NumberError::OutOfRange)),
            ("99999999999999999999999999999999999999999", 0, Err(NumberError::OutOfRange)),
            ("", 0, Err(NumberError::NotDecimal)),
            ("-", 0, Err(NumberError::NotDecimal)),
            ("1,5", 0, Err(NumberError::NotDecimal)),
            ("NaN", 0, Err(NumberError::NotDecimal)),
            ("1e", 0, Err(NumberError::NotDecimal)),
        ] {
            assert_eq!(whole(text, power), expected, "{text} × 10^{power}");
        }
    }

    #[test]
    fn unscaled_numbers_get_their_point() {
        for (unscaled, scale, expected) in
            [(19_045, 2, "190.45"), (-5, 4, "-0.0005"), (7, 0, "7"), (0, 3, "0.000"), (-1_200, 2, "-12.00")]
        {
            assert_eq!(Value::scaled(unscaled, scale), Value::Decimal(expected.into()));
        }
    }
}
