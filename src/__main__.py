import gc, sys, os

gc.set_threshold(100_000)  # a start makes no garbage; looking for it takes a tenth of the time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from gha_apptainer.node.main import main

code = main()
sys.stdout.flush()
os._exit(code)  # taking an interpreter apart costs as much as starting it, and nothing is left to do
