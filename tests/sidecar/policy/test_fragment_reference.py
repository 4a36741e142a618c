"""A fragment that the reference implementation signed, and what it makes of names in issuers.

The vector was made by `CreateCoseSign1` of microsoft/cosesign1go 1.6.0 (as vendored by hcsshim) over a text
of ours, with a chain of `sidecar policy testchain`; the same package's `UnpackAndValidateCOSE1CertChain`
and didx509go 0.0.3 accept it, and accept what we sign by each of the seven algorithms."""

from __future__ import annotations

import base64

import pytest

from sidecar.cose import parse_sign1
from sidecar.didx509 import parse_did
from sidecar.errors import MalformedInput
from sidecar.policy.fragment import verify_fragment

VECTOR = base64.b85decode(
    b"(u7$C=%oQTA_I6BVQ_G4X=7n@X>V>Xb#7~JZ+C7ha%E?47$JjM0u?ZV0ueBR0hpiz0s#U76mtk;loEe$q|Obfs(SlCUBY@=doT(H"
    b"2r7n1&OHPJ128i&4loP`162eH3<XqWb98etAut~X162eA3>Z{pb95j>K_Dn*Z*m}XWpi|MAa8DLc_}a+7Y#8vF)}kTGBYqRFfdvd"
    b"4Kgq>GBYtSFfcGMFj_DxF%B>c1_M<D3Je8QWpi|MF&Quy1_M<D0}K#TX=iR_av(q;Bp@arJs^HCb}$eI2P%e0&OHJF1_djD1OOrf"
    b"VgLjy@Y7WH=rkSzzg<5x*miGpqf$+&_+PP6BN~;ry9Qpuk?Tf=r4+0*hEgng)>WfCm^ur=!(((CRN8Uyd)=}NspQxs{%>v2LJ0l7"
    b"uU}R`4g=LZl5q!aFdQ&{c2serbue=<3<d*L9TNco{{#Xs05A>)163Ul0RjI61OoyGfG`~f163Uk1QrAoI$I{OmIN!W9o|?yc4Vw}"
    b"(Xee<Fdqg3RUIP)7%&!q6hc3j5f@<YGS!&GqO=u&n2Ac_=P(ln163U*1Pm|=1_&z#0R;sI0|PJ$1_&yKNX|V30|NtR05D_%Fa-"
    b"*y17MM0A(gV~#^1`U!;ZU_TU^TAwaX4Ie@5G<?dJ9mJicQmM@-"
    b"iRK4~|q)&ekFx^_kcVexleBtvu^XFfIRoH{yvwyyi$8cif*c5m$X|0TIyfl#^oCy9?I018l90ueBR0u3;N0h6Eu0s#U76h*g)B$$"
    b"d0FtlBtg?OCsn0gSCB`^vG2r7n1&OHPJ128o)4loP`162eH3<XqWb98etBQPNb162eA3>s8rb95k5Z*O!UC}wYRAarGObaNnYZft"
    b"oeFdi2TF*z|ZGchtVFfcGMS{Ds6FflSSF)%PNFfcG$Ff%a@FboC*RRjtQ1yp5obaOEwFdqg3RRjYJ7*u6*bRa`PASh;Uav*eNb98"
    b"ecZ*FXPDKK_05C#V-hDgpm0s#gED}e+6A_HOo1eQy*e%XwBo_BA#wg-"
    b"&|6G&{oW>Tzo`=Pe$rY>t(23w1t8?;9zpY4xSo@u(1h{Nv+>1y6t{6xJVbWh>aS%ZcHWaZXqBoD8noi;4thyoohyzMlbhizWj^&0"
    b"Ba2cu>%WH1s2163Up0RjI62rvc#0sjI405A>)163Ul0RjI61OoyA1~454163Uk1QrAoLO+)g7hvu()tJPhv=xAuiAv(<Fdqg3RUI"
    b"P)7%&!q6jGD@!K@HA2bQ|SlNNq<JueYDnJ@|l2r7n1&OHPJ0|RIPFl7QTe=fuJs2XNtMo-qbyzrA%!-"
    b"8+AZ{wa(n?TfOIpX%jubvKl-"
    b"|5L=j}H_317~f20x<x=k=bj%u}vf0sv^|a;t?e&!*?WxwYr>ffJ?PE;WMuXeHttG))B0W8LM=XbRZd70uwNT0uL~P0hOQw0s#U76"
    b"eKISOD)_%A+z2MeDGJ6fQA+;E-"
    b"(rP2r7n1&OHPJ128o)4loP`162eH3<XqWb98etBQPNb162eA3>s8rb95k5Z*O!UC}wYRAarGObaNnYZftoeFdi2TF*z|ZGchtVFf"
    b"cGMS{Ds6FflSSF)%PNFfcG$Ff}m_FboC*RRjtQ1yp5obaOEyFd+s5RRjYJ8dPO-bRbf1Z*(9iW^ZyJbY*jNb0BYSY<Vd#b}$eI2P"
    b"%e0&OHJF1_djD1OOrfVgLl5<x*1`y#z)r3;EzP)?~LaxeglWjU>Q(i3E|=v~j-"
    b"otnIlT|L{L0liNFbS%8qO7z8!37(+|wQ4o*e12jbp@Sx)=v2+iLlw7JH4rGbJ-t`R0ZoUkiBDp1vSQ^HoW-"
    b"w$h5(WcR9TNco{{#py1_1&80s#Rq4h92N9S;Ek{{#dB0s#gv9R>qc9S#H*1Qb$}{lTmdHV2lv!;=<%c0Df<I+-"
    b"vZ1_M<cBLo;Q7Jw8|ll{T05H<&vy2Fzees(=C5jvSL3I+%&hDgpm1Oo#DXaF!}0x<yMgpR+;pp3@e>Co|jgOLramWHBGK<COWg7B"
    b"i)F=~%jt|_pv#OAV2Nt0d{pURH{Fg_C8sJ{B5aTuD!7YL<DSv^J6!*^it=#x!H@fbe;lstM%#Z0oljPTz7(WH>yOk-"
    b"(tb9iKAX=FNhH843kFgkN+VKOx~I!rcbXjW@#c`|KbLsVHfad}NMLU4C8GDa{tNOfp(aAj;{Z8mXuR8C)6Iy!T8Vrpe$bUH&$I#X"
    b"$9Ze?;MGB7|TGB6}1GB743GB7<QGBAE*W@Tk$baG{9X>)XPc`jvmVQp}1WiMfHaG+RRaA9L>VP|C^V{dMBZ*y-"
    b"73UhXDAUZuDA~PZiW^!R|Wp{6KYhQL{a&u{KZXh~6AR;g>GA=VB3JPX&VP|b+Zgg`XIz1p;T?z_gZ*Fv9X>Mh5b09iBAX{AuSYR#"
    b"x|NQdj{uD~cv}AR-"
    b"X>C_eM^3?tuLy_w%GSghQRPH2(|D$K4d6uc0Kg$vtfT8P<Z%9QueHVpUw++U2`55qIUxU*(Tq@N)pT>$<RR{;oVco#fJsSskI49s"
    b";DG"
)
TEXT = b'package contoso\n\nsvn := "3"\nframework_version := "0.2.3"\n\nfragments := []\n\ncontainers := []\n'


def test_a_fragment_of_the_reference_implementation() -> None:
    fragment = verify_fragment(VECTOR)
    assert fragment.text == TEXT
    assert fragment.feed == "registry.example/app"
    assert fragment.issuer.endswith("::subject:CN:Signer%20@%20$%20&%20=%20~")
    assert fragment.algorithm == "ES384"
    assert (fragment.content.svn, fragment.content.includes) == ("3", ("containers", "fragments"))


def test_its_protected_header_has_the_order_that_ours_has() -> None:
    assert list(parse_sign1(VECTOR).protected) == [1, 3, 33, "iss", "feed"]


HEAD = "did:x509:0:sha256:L6hhVkjy2maCTY8qyM3Bpw32F09Huhrpeldm6qxTN_Y::subject:CN:"


@pytest.mark.parametrize("name", ["Contoso", "a%20b", "a@b.c", "a=b", "$x", "~x", "a&b", "%28x%29"])
def test_names_that_both_read(name: str) -> None:
    assert parse_did(HEAD + name).predicates == (("subject", ("CN", name)),)


@pytest.mark.parametrize("name", ["a:b", "a b", "a+b", "a%2", "a/b", "é"])
def test_names_that_are_refused(name: str) -> None:
    """The reference reads `a:b` as two values and `a+b` as `a b`; neither is what the signer meant."""
    with pytest.raises(MalformedInput):
        parse_did(HEAD + name)
