//! Exact prices.

use std::fmt;
use std::str::FromStr;

/// A price in units of 1e-9 of the currency: exact from the wire to the archive.
///
/// Range ±999,999,999.999999999: eighteen digits, so that a column of prices is a `Decimal(18, 9)`
/// to every program that reads the archive. Zero stands for "no price on this side" in a quote.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price(i64);

/// Why a text is no price.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// Not a decimal number.
    #[error("\"{0}\" is no price: write a decimal number such as 190.45")]
    NotDecimal(String),
    /// More decimals than a price carries.
    #[error("price \"{0}\" has more than 9 decimals")]
    TooPrecise(String),
    /// More than eighteen digits.
    #[error("price \"{0}\" is out of range (±999999999.999999999)")]
    OutOfRange(String),
}

const NANOS_PER_UNIT: i64 = 1_000_000_000;
const DECIMALS_MAX: usize = 9;

impl Price {
    /// No price.
    pub const ZERO: Self = Self(0);

    /// The highest price.
    pub const MAX: Self = Self(999_999_999_999_999_999);

    /// A price from units of 1e-9; `None` when out of range.
    pub const fn from_nanos(nanos: i64) -> Option<Self> {
        if nanos > Self::MAX.0 || nanos < -Self::MAX.0 { None } else { Some(Self(nanos)) }
    }

    /// A price from units of 1e-4, as IEX and ITCH carry it; `None` when out of range.
    pub const fn from_ten_thousandths(units: i64) -> Option<Self> {
        match units.checked_mul(100_000) {
            Some(nanos) => Self::from_nanos(nanos),
            None => None,
        }
    }

    /// The price in units of 1e-9.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Whether there is no price.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The nearest `f64`: for clients whose wire carries floats, and for drawing. Never stored.
    pub fn to_f64(self) -> f64 {
        // The quotient of two exactly represented integers is correctly rounded, so every price
        // of up to 15 significant digits prints again as the same decimal. Above 2^53 nanos the
        // numerator is rounded first: split, so that the error stays in the last place.
        if self.0.unsigned_abs() < 1 << 53 {
            self.0 as f64 / NANOS_PER_UNIT as f64
        } else {
            self.to_string().parse().unwrap_or(f64::NAN)
        }
    }

    /// The exact decimal nearest to `value` at nine decimals, by way of its shortest print.
    ///
    /// For wires that can only carry floats (`MsgPack` of Alpaca). `None` when not finite or out of
    /// range.
    pub fn from_f64(value: f64) -> Option<Self> {
        if !value.is_finite() {
            return None;
        }
        let text = format!("{value:.9}");
        match text.parse() {
            Ok(price) if value.abs() < 1e6 => Some(price),
            // Past 1e6 nine decimals are beyond a float's digits: the shortest print is meant.
            Ok(price) => Some(value.to_string().parse().unwrap_or(price)),
            Err(_) => None,
        }
    }

    /// Writes the shortest exact decimal (`190.45`, `-0.5`, `12`) and returns the bytes used.
    pub fn write_to(self, out: &mut [u8; Self::PRINT_LEN_MAX]) -> &str {
        let magnitude = self.0.unsigned_abs();
        let (units, nanos) = (magnitude / NANOS_PER_UNIT as u64, magnitude % NANOS_PER_UNIT as u64);
        let mut len = 0;
        if self.0 < 0 {
            out[0] = b'-';
            len = 1;
        }
        let mut digits = itoa::Buffer::new();
        let units = digits.format(units).as_bytes();
        out[len..len + units.len()].copy_from_slice(units);
        len += units.len();
        if nanos != 0 {
            out[len] = b'.';
            let fraction = &mut out[len + 1..len + 1 + DECIMALS_MAX];
            let mut rest = nanos;
            for digit in fraction.iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
            let kept = fraction.iter().rposition(|&digit| digit != b'0').map_or(0, |last| last + 1);
            len += 1 + kept;
        }
        std::str::from_utf8(&out[..len]).unwrap_or_default()
    }

    /// The most bytes [`Price::write_to`] writes: sign, nine digits, point, nine decimals.
    pub const PRINT_LEN_MAX: usize = 20;
}

impl FromStr for Price {
    type Err = PriceError;

    /// Parses `-?digits[.digits]`, with an optional exponent as JSON numbers may carry one.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(64).collect::<String>().escape_debug().to_string();
        let not_decimal = || PriceError::NotDecimal(shown());
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
            Some(at) => (&unsigned[..at], unsigned[at + 1..].parse::<i32>().map_err(|_| not_decimal())?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let point_is_last = mantissa.ends_with('.');
        let all_digits = whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || point_is_last || !all_digits || mantissa.len() > 64 {
            return Err(not_decimal());
        }
        // value = digits × 10^(exponent − fraction.len()), in nanos 10^9 times that.
        let digits = whole.bytes().chain(fraction.bytes()).map(|byte| i128::from(byte - b'0'));
        let mut magnitude: i128 = 0;
        for digit in digits {
            magnitude = magnitude
                .checked_mul(10)
                .and_then(|m| m.checked_add(digit))
                .ok_or_else(|| PriceError::OutOfRange(shown()))?;
        }
        let mut scale = i64::from(exponent) - fraction.len() as i64 + DECIMALS_MAX as i64;
        while scale < 0 && magnitude != 0 {
            if magnitude % 10 != 0 {
                return Err(PriceError::TooPrecise(shown()));
            }
            magnitude /= 10;
            scale += 1;
        }
        while scale > 0 && magnitude != 0 {
            magnitude = magnitude.checked_mul(10).ok_or_else(|| PriceError::OutOfRange(shown()))?;
            scale -= 1;
        }
        let signed = if negative { -magnitude } else { magnitude };
        let nanos = i64::try_from(signed).ok().and_then(Self::from_nanos);
        nanos.ok_or_else(|| PriceError::OutOfRange(shown()))
    }
}

impl fmt::Display for Price {
    /// Prints the exact decimal; a precision (`{:.2}`) sets a least number of decimals, since a
    /// price is never rounded.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = [0; Self::PRINT_LEN_MAX];
        let exact = self.write_to(&mut out);
        let Some(decimals) = f.precision() else { return f.pad_integral(true, "", exact) };
        let shown = exact.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        let mut text = exact.to_owned();
        if shown == 0 && decimals > 0 {
            text.push('.');
        }
        text.extend(std::iter::repeat_n('0', decimals.min(DECIMALS_MAX).saturating_sub(shown)));
        match f.width() {
            Some(width) => write!(f, "{text:>width$}"),
            None => f.write_str(&text),
        }
    }
}

impl fmt::Debug for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn price(text: &str) -> Price {
        text.parse().unwrap()
    }

    #[test]
    fn prints_the_shortest_exact_decimal() {
        for text in ["190.45", "0.0001", "-0.5", "12", "0", "999999999.999999999", "-999999999.999999999"] {
            assert_eq!(price(text).to_string(), text);
        }
        assert_eq!(price("190.450").to_string(), "190.45");
        assert_eq!(price("1.5e2"), price("150"));
        assert_eq!(price("15e-1"), price("1.5"));
        assert_eq!(format!("{:.2}", price("190.4")), "190.40");
        assert_eq!(format!("{:.2}", price("190.4567")), "190.4567");
        assert_eq!(format!("{:>8.2}", price("7")), "    7.00");
    }

    #[test]
    fn refuses_what_it_cannot_hold() {
        for text in ["", "-", ".5", "5.", "1,5", "abc", "0x1", "1e", "٣", "+1", " 1", "NaN"] {
            assert!(matches!(text.parse::<Price>(), Err(PriceError::NotDecimal(_))), "{text}");
        }
        assert!(matches!("0.0000000001".parse::<Price>(), Err(PriceError::TooPrecise(_))));
        assert!(matches!("1000000000".parse::<Price>(), Err(PriceError::OutOfRange(_))));
        assert!(matches!("1e300".parse::<Price>(), Err(PriceError::OutOfRange(_))));
        assert_eq!(price("0e99"), Price::ZERO);
    }

    proptest! {
        #[test]
        fn parse_and_print_are_inverse(nanos in -Price::MAX.0..=Price::MAX.0) {
            let price = Price::from_nanos(nanos).unwrap();
            prop_assert_eq!(price.to_string().parse::<Price>().unwrap(), price);
        }

        #[test]
        fn floats_carry_market_prices_exactly(ten_thousandths in 0_i64..10_000_000_000) {
            let price = Price::from_ten_thousandths(ten_thousandths).unwrap();
            prop_assert_eq!(Price::from_f64(price.to_f64()), Some(price));
        }

        #[test]
        fn never_panics(text in "\\PC{0,80}") {
            let _ = text.parse::<Price>();
        }
    }
}
