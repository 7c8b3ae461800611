"""Everyday Spanish sentences and voices for ``dinosr synth --language es``.

The notation is that of ``grammar.py``. M and F in the names of rules are the genders, in which articles, nouns and
qualities agree.
"""

from .grammar import parse

_GRAMMAR = """
SENTENCE: STATEMENT | STATEMENT | STATEMENT TIME | TIME STATEMENT | SHORT JOIN SHORT | QUESTION | COMMAND | THERE

STATEMENT: PERSON VERB THING PLACE | PERSON VERB THING PLACE | PERSON MOVED PLACE | PERSON HOW MOVED PLACE
STATEMENT: PERSON WOULD DO THING PLACE | PERSON VERB THING y THING | PERSON SAID que SHORT | PERSON VERB THING con THING
STATEMENT: MTHING WAS MQUALITY y MQUALITY | FTHING WAS FQUALITY y FQUALITY | PERSON VERB COUNT PLURAL PLACE
SHORT: PERSON VERB THING | PERSON MOVED PLACE | MTHING WAS MQUALITY | FTHING WAS FQUALITY | PERSON HOW VERB THING
SHORT: PERSON WOULD DO THING
QUESTION: quién VERB THING PLACE | dónde VERB PERSON THING | cuándo VERB PERSON THING | por qué VERB PERSON THING
QUESTION: cómo MOVED PERSON PLACE
COMMAND: por favor hay que DO THING PLACE | vamos a DO THING TIME | no hay que DO THING PLACE
THERE: había THING PLACE | había COUNT PLURAL PLACE | hay THING PLACE TIME

PERSON: él | ella | usted | NAME | NAME | NAME | MHUMAN | FHUMAN | MHUMAN MTRAIT | FHUMAN FTRAIT
NAME: ana | jorge | juan | maría | carlos | lucía | miguel | rosa
MHUMAN: MOWNER MPERSON
FHUMAN: FOWNER FPERSON
MPERSON: niño | hombre | chico | maestro | médico | juez | hermano | padre | vecino | abuelo
FPERSON: niña | mujer | chica | maestra | doctora | jueza | hermana | madre | vecina | abuela
MTRAIT: joven | viejo | feliz | callado | amable | extraño
FTRAIT: joven | vieja | feliz | callada | amable | extraña
MOWNER: el | el | un | mi | tu | su | nuestro | este
FOWNER: la | la | una | mi | tu | su | nuestra | esta

THING: MTHING | FTHING | MTHING MLOOK | FTHING FLOOK
MTHING: MOWNER MNOUN | MOWNER MNOUN
FTHING: FOWNER FNOUN | FOWNER FNOUN
MNOUN: libro | perro | gato | jardín | vaso | zapato | barco | caballo | pez | queso | juguete | regalo | coche | huevo
MNOUN: pollo | fuego | árbol | bolso | papel | reloj | cuchillo | sombrero | dibujo | paraguas | tren | pan
FNOUN: casa | mesa | silla | caja | carta | llave | puerta | ventana | flor | piedra | botella | naranja | taza | leche
FNOUN: moneda | lluvia | luz | voz | guitarra | cuchara | manzana | camisa | bicicleta | foto | hoja | cerveza
MLOOK: rojo | verde | azul | amarillo | negro | blanco | grande | pequeño | largo | pesado | nuevo | bueno | malo
MLOOK: bonito | roto | frío | caliente | barato | raro
FLOOK: roja | verde | azul | amarilla | negra | blanca | grande | pequeña | larga | pesada | nueva | buena | mala
FLOOK: bonita | rota | fría | caliente | barata | rara
COUNT: dos | tres | cuatro | cinco | seis | siete | diez | muchos
PLURAL: perros | libros | pájaros | niños | juguetes | zapatos | árboles | coches | papeles | relojes

VERB: vio | encontró | trajo | quería | hizo | lavó | llevó | abrió | mostró | recogió | miró | olvidó | movió | compró
VERB: vendió | dejó | rompió | limpió | buscó | perdió | dibujó | guardó
DO: ver | encontrar | traer | hacer | comprar | lavar | empujar | abrir | mostrar | recoger | mirar | buscar | tocar
DO: mover | guardar | vender
WOULD: quiere | puede | debe | podía | quería | tenía que | va a | no puede | no quiere | no debe
SAID: dijo | pensó | oyó | creía
MOVED: fue | caminó | corrió | llegó | jugó | esperó | saltó | durmió | cantó
HOW: despacio | rápidamente | siempre | nunca | a menudo | casi siempre
WAS: era | es | parecía | fue
MQUALITY: MLOOK | MLOOK | muy MLOOK | demasiado MLOOK | bastante MLOOK
FQUALITY: FLOOK | FLOOK | muy FLOOK | demasiado FLOOK | bastante FLOOK

PLACE: INSIDE el MSPOT | NEAR del MSPOT | junto al MSPOT | WHERE la FSPOT | WHERE la FSPOT | WHERE mi FSPOT
PLACE: WHERE nuestro MSPOT | aquí | allí | en casa | afuera
WHERE: INSIDE | NEAR de
INSIDE: en | desde | hacia
NEAR: cerca | debajo | detrás | alrededor | enfrente | dentro
MSPOT: parque | río | garaje | pueblo | puente | mercado | campo | baño | techo
FSPOT: escuela | iglesia | playa | calle | cocina | plaza | montaña | oficina | torre
TIME: hoy | ayer | anoche | esta mañana | por la noche | el lunes | el jueves | otra vez | todos los años
TIME: después de comer | antes de cenar | hace un mes | todo el día
JOIN: y | pero | porque | así que | cuando | mientras | aunque
"""

RULES = parse(_GRAMMAR)

QUESTION_WORDS = ("quién", "dónde", "cuándo", "por qué", "cómo")

VOICES = (
    ("es+m3", 46, 55, 146),
    ("es+f2", 50, 50, 142),
    ("es-419+Michael", 58, 45, 150),
    ("es-419+Annie", 45, 60, 144),
    ("es-419+m1", 34, 40, 138),
    ("es+f5", 62, 45, 152),
    ("es+m7", 60, 60, 156),
    ("es-419+f3", 40, 50, 148),
    ("es+Lee", 50, 70, 144),
    ("es-419+linda", 52, 50, 138),
    ("es+boris", 56, 35, 136),
    ("es-419+f4", 48, 60, 150),
    ("es-419+klatt4", 50, 60, 154),
    ("es+shelby", 55, 40, 146),
    ("es+quincy", 42, 50, 142),
    ("es-419+Andrea", 52, 55, 130),
)
"""Voice, pitch, pitch range, words per minute, as in ``corpus``: the same speakers in two accents of Spanish."""
