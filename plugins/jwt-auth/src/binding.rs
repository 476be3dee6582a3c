//! Tokens that only who has a client certificate may use (RFC 8705 §3).

use sluice_filter::{Claims, Confirmation, prelude::*};

use super::{
    config::CertificateBound,
    refusal::{Refusal, invalid},
};

/// Refuses a token that is bound to something that the request has not shown.
pub(crate) fn check(
    claims: &Claims<'_>,
    bound: CertificateBound,
    request: &Request,
) -> Result<Result<(), Refusal>, Error> {
    let thumbprint = match (claims.confirmation(), bound) {
        (Confirmation::None, CertificateBound::Optional) => return Ok(Ok(())),
        (Confirmation::None, CertificateBound::Required) => {
            return Ok(Err(invalid("not-bound", "the token is not bound to a client certificate")));
        }
        (Confirmation::Certificate(thumbprint), _) => thumbprint,
        (_, _) => {
            return Ok(Err(invalid("bound-otherwise", "the token is bound to a key that can't be shown here")));
        }
    };
    let Some(certificate) = request.client_certificate()? else {
        return Ok(Err(invalid("certificate-missing", "the token needs the client certificate that it is bound to")));
    };
    Ok(if certificate.thumbprint().is_some_and(|shown| shown == thumbprint) {
        Ok(())
    } else {
        Err(invalid("wrong-certificate", "the token is bound to another client certificate"))
    })
}
