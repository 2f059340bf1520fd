import sys, os
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from gha_apptainer.node.main import main
code = main()
sys.stdout.flush()
os._exit(code)  # taking an interpreter apart costs as much as starting it, and nothing is left to do
